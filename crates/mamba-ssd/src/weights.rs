//! Weights that are stored narrower than they are computed with.
//!
//! Decoding a token reads every weight once, so on a CPU its time is the bytes of the weights over the bandwidth of the
//! memory. Only weights of linear layers and embeddings are stored narrower, which are all but a thousandth of a
//! model; what is computed, norms, decays and states stay in f32. They lie in memory along the depth of their products,
//! a layer's weight turned: each number of a result is then read in one piece.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};

/// How the weights of products are stored on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// In the dtype that is computed in.
    #[default]
    Full,
    /// In bf16: half the bytes of f32, and what most checkpoints hold.
    Bf16,
    /// In 8-bit integers with an f32 scale for every 128 numbers along the depth of the product (64, 32 or 16 where 128
    /// does not divide it; where 16 does not either, a weight is stored in bf16): 1.03 bytes a weight.
    Int8,
}

/// What a weight is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// `[k n]`, the weight of a linear layer.
    Rows,
    /// `[v d]`, an embedding, which also serves as head.
    Columns,
}

impl Depth {
    /// That of a parameter, by the type of the module that holds it and its name there.
    fn of(container: &str, name: &str) -> Option<Self> {
        match (container, name) {
            ("Struct:Linear", "weight") => Some(Self::Rows),
            ("Struct:Embedding", "weight") => Some(Self::Columns),
            _ => None,
        }
    }
}

impl WeightFormat {
    /// A module's weights in this format, one after another.
    ///
    /// # Panics
    ///
    /// For another format than [`WeightFormat::Full`], if the module is not in f32 on the CPU (`flex`), or is to be
    /// trained.
    pub fn store<M: Module>(self, module: M) -> M {
        match self {
            Self::Full => module,
            _ => module.map(&mut Store { format: self, path: Vec::new() }),
        }
    }

    /// One parameter in this format, by the type of the module that holds it (as
    /// [`ModuleMapper::enter_module`] names it) and its name there.
    ///
    /// # Panics
    ///
    /// As [`WeightFormat::store`].
    pub fn store_parameter<const D: usize>(
        self,
        parameter: Tensor<D>,
        container: &str,
        name: &str,
    ) -> Tensor<D> {
        let Some(depth) = Depth::of(container, name).filter(|_| D == 2 && self != Self::Full) else {
            return parameter;
        };
        assert!(
            parameter.dtype() == DType::F32 && on_the_cpu(&parameter),
            "weights are stored in {self:?} from f32 on flex, without gradients"
        );
        let depth_of = parameter.dims()[usize::from(depth == Depth::Columns)];
        let block =
            [128u8, 64, 32, 16].into_iter().find(|&block| depth_of.is_multiple_of(usize::from(block)));
        match (self, block) {
            (Self::Int8, Some(block)) => integers(parameter, depth, block),
            _ if depth == Depth::Rows => parameter.transpose().cast(DType::BF16).transpose(),
            _ => parameter.cast(DType::BF16),
        }
    }
}

#[cfg(feature = "flex")]
fn on_the_cpu<const D: usize>(parameter: &Tensor<D>) -> bool {
    crate::kernels::rows_are_independent(&parameter.device(), parameter.dtype())
}

#[cfg(not(feature = "flex"))]
fn on_the_cpu<const D: usize>(_parameter: &Tensor<D>) -> bool {
    false
}

#[cfg(feature = "flex")]
fn integers<const D: usize>(parameter: Tensor<D>, depth: Depth, block: u8) -> Tensor<D> {
    let matrix = Tensor::<2>::from_dispatch(parameter.into_dispatch());
    let integers = crate::kernels::into_int8(
        matrix,
        match depth {
            Depth::Rows => [block, 1],
            Depth::Columns => [1, block],
        },
    );
    Tensor::from_dispatch(integers.into_dispatch())
}

#[cfg(not(feature = "flex"))]
fn integers<const D: usize>(_parameter: Tensor<D>, _depth: Depth, _block: u8) -> Tensor<D> {
    unreachable!("without flex nothing is on the CPU")
}

/// A weight in the dtype that is computed in.
pub(crate) fn widened(weight: Tensor<2>, dtype: DType) -> Tensor<2> {
    if weight.dtype() == dtype {
        return weight;
    }
    #[cfg(feature = "flex")]
    if crate::kernels::is_stored(&weight) {
        return crate::kernels::widened(weight).cast(dtype);
    }
    weight
}

/// Stores every parameter that can be.
struct Store {
    format: WeightFormat,
    path: Vec<(String, String)>,
}

impl ModuleMapper for Store {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_string(), container_type.to_string()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((name, container)) = self.path.last() else { return param };
        match Depth::of(container, name) {
            None => param,
            Some(_) => {
                let id = param.id;
                let stored = self.format.store_parameter(param.val().detach(), container, name);
                param.transform_for_load(stored, id)
            }
        }
    }
}
