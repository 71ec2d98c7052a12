//! The mixer of Phi-Mamba and Llamba between its projections: what surrounds SSD, forward and in reverse.
//!
//! ```text
//! [x B C] = conv(projected)            log a = -softplus(A_log)
//! out = (SSD(x, a, B, C) + D x) silu(z + z_bias)
//! ```
//!
//! The parts of a row of the projection, `[x B C | z | A_log | padding]`, are read and their gradients written where
//! they lie. x, B and C come out of the convolution as arrays of their own, as SSD takes them.

mod kernels;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::zeros_client;
use burn_cubecl::tensor::CubeTensor;

use kernels::{
    LONG_RUN, RUN, SizesLaunch, close_kernel, decay_gradient_kernel, decay_kernel, join_kernel, open_kernel,
    split_kernel, weight_kernel,
};

use super::reduce::sum_of_parts;
use super::{cubes, empty, empty_like};
use crate::kernels::discrete::Discrete;
use crate::kernels::ops::SsdOps;

/// What the mixer is computed from.
pub struct Inputs {
    /// `[b t w]`.
    pub projected: CubeTensor,
    /// The convolution's taps, `[c k]`.
    pub weight: CubeTensor,
    /// Its bias, `[c]`.
    pub bias: CubeTensor,
    /// `[inner]`.
    pub z_bias: CubeTensor,
    /// Skip term, `[h]`.
    pub d: CubeTensor,
    /// First token of every token's document, `[b t]`.
    pub starts: CubeTensor,
}

impl Inputs {
    fn contiguous(self) -> Self {
        let Self { projected, weight, bias, z_bias, d, starts } = self;
        let [projected, weight, bias, z_bias, d, starts] =
            [projected, weight, bias, z_bias, d, starts].map(into_contiguous);
        Self { projected, weight, bias, z_bias, d, starts }
    }
}

/// Gradients in the shapes of the inputs.
pub struct Gradients {
    pub projected: CubeTensor,
    pub weight: CubeTensor,
    pub bias: CubeTensor,
    pub z_bias: CubeTensor,
    pub d: CubeTensor,
}

/// The sizes of one call.
struct Plan {
    b: usize,
    t: usize,
    width: usize,
    channels: usize,
    k: usize,
    /// Numbers in an access.
    wide: usize,
    form: Discrete,
}

impl Plan {
    fn new(inputs: &Inputs, form: Discrete) -> Self {
        let [b, t, width] = inputs.projected.shape().dims();
        let [channels, k] = inputs.weight.shape().dims();
        let sizes = [width, form.inner(), form.bc(), form.p];
        let wide = if sizes.iter().all(|size| size.is_multiple_of(4)) { 4 } else { 1 };
        Self { b, t, width, channels, k, wide, form }
    }

    fn sizes(&self) -> SizesLaunch {
        let Discrete { heads, p, .. } = self.form;
        let [width, inner, bc, p] =
            [self.width, self.form.inner(), self.form.bc(), p].map(|size| size / self.wide);
        SizesLaunch::new(self.b * self.t, self.t, width, inner, bc, p, heads)
    }

    fn units(&self, channels: usize, run: usize) -> usize {
        self.b * self.t.div_ceil(run) * channels / self.wide
    }

    /// Where A_log begins in a row.
    fn decays(&self) -> usize {
        self.channels + self.form.inner()
    }
}

/// What SSD is given.
struct Parts {
    x: CubeTensor,
    b: CubeTensor,
    c: CubeTensor,
    log_a: CubeTensor,
    state: CubeTensor,
}

fn split(inputs: &Inputs, plan: &Plan) -> Parts {
    let Inputs { projected, weight, bias, starts, .. } = inputs;
    let (dtype, index) = (dtype_to_storage_type(projected.dtype), dtype_to_storage_type(starts.dtype));
    let Discrete { heads, p, groups, n, .. } = plan.form;
    let array = |heads, width| empty(projected, [plan.b, plan.t, heads, width], projected.dtype);
    let (x, b, c) = (array(heads, p), array(groups, n), array(groups, n));
    let (count, dim) = cubes(projected, plan.units(plan.channels, RUN));
    split_kernel::launch(
        &projected.client,
        count,
        dim,
        plan.wide,
        projected.clone().into_buffer_arg(),
        weight.clone().into_buffer_arg(),
        bias.clone().into_buffer_arg(),
        starts.clone().into_buffer_arg(),
        x.clone().into_buffer_arg(),
        b.clone().into_buffer_arg(),
        c.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    let log_a = empty(projected, [plan.b, plan.t, heads], DType::F32);
    let (count, dim) = cubes(projected, plan.b * plan.t * heads);
    decay_kernel::launch(
        &projected.client,
        count,
        dim,
        projected.clone().into_buffer_arg(),
        starts.clone().into_buffer_arg(),
        log_a.clone().into_buffer_arg(),
        plan.b * plan.t,
        plan.t,
        plan.width,
        plan.decays(),
        heads,
        dtype,
        index,
    );
    Parts { x, b, c, log_a, state: zeros(projected, [plan.b, heads, p, n]) }
}

/// f32 zeros, contiguous: with several axes CUDA may pad rows, which the kernels would read without a stride.
fn zeros(like: &CubeTensor, shape: [usize; 4]) -> CubeTensor {
    let flat = [shape.iter().product::<usize>()];
    let zeros = zeros_client(like.client.clone(), like.device.clone(), flat.into(), DType::F32);
    burn_cubecl::ops::reshape(zeros, shape.into())
}

/// The result `[b t inner]`, and SSD's own, `[b t h p]`.
pub fn forward(inputs: Inputs, form: Discrete) -> (CubeTensor, CubeTensor) {
    let inputs = inputs.contiguous();
    let plan = Plan::new(&inputs, form);
    let Parts { x, b, c, log_a, state } = split(&inputs, &plan);
    let (y, _) = CubeBackend::ssd_forward(x.clone(), log_a, b, c, state);
    let out = empty(&y, [plan.b, plan.t, form.inner()], y.dtype);
    let (count, dim) = cubes(&y, plan.b * plan.t * form.inner() / plan.wide);
    close_kernel::launch(
        &out.client,
        count,
        dim,
        plan.wide,
        y.clone().into_buffer_arg(),
        x.into_buffer_arg(),
        inputs.projected.into_buffer_arg(),
        inputs.z_bias.into_buffer_arg(),
        inputs.d.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        plan.sizes(),
        form.z_bias,
        dtype_to_storage_type(y.dtype),
    );
    (out, y)
}

/// Gradients, given that of the result and SSD's own result.
pub fn backward(inputs: Inputs, y: CubeTensor, grad: CubeTensor, form: Discrete) -> Gradients {
    let inputs = inputs.contiguous();
    let (y, grad) = (into_contiguous(y), into_contiguous(grad));
    let plan = Plan::new(&inputs, form);
    let Parts { x, b, c, log_a, state } = split(&inputs, &plan);
    let Inputs { projected, weight, z_bias, d, starts, .. } = inputs;
    let (dtype, index) = (dtype_to_storage_type(y.dtype), dtype_to_storage_type(starts.dtype));
    let (to_y, to_projected) = (empty_like(&y), empty_like(&projected));
    let units = plan.units(form.inner(), LONG_RUN);
    let [d_parts, z_parts] = [0, 1].map(|_| empty(&y, [units * plan.wide], DType::F32));
    let (count, dim) = cubes(&y, units);
    open_kernel::launch(
        &y.client,
        count,
        dim,
        plan.wide,
        grad.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        x.clone().into_buffer_arg(),
        projected.clone().into_buffer_arg(),
        z_bias.into_buffer_arg(),
        d.clone().into_buffer_arg(),
        to_y.clone().into_buffer_arg(),
        to_projected.clone().into_buffer_arg(),
        d_parts.clone().into_buffer_arg(),
        z_parts.clone().into_buffer_arg(),
        plan.sizes(),
        form.z_bias,
        plan.wide,
        dtype,
    );
    let last = zeros(&y, [plan.b, form.heads, form.p, form.n]);
    let (to_x, to_log, to_b, to_c, _) = CubeBackend::ssd_backward(x, log_a, b, c, state, to_y.clone(), last);
    let [to_x, to_log, to_b, to_c] = [to_x, to_log, to_b, to_c].map(into_contiguous);

    let (count, dim) = cubes(&y, plan.units(plan.channels, RUN));
    join_kernel::launch(
        &y.client,
        count,
        dim,
        plan.wide,
        to_x.clone().into_buffer_arg(),
        to_y.clone().into_buffer_arg(),
        to_b.clone().into_buffer_arg(),
        to_c.clone().into_buffer_arg(),
        d.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        starts.clone().into_buffer_arg(),
        to_projected.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    let units = plan.units(plan.channels, LONG_RUN);
    let w_parts = empty(&y, [units * plan.wide * plan.k], DType::F32);
    let biases = empty(&y, [units * plan.wide], DType::F32);
    let (count, dim) = cubes(&y, units);
    weight_kernel::launch(
        &y.client,
        count,
        dim,
        plan.wide,
        to_x.into_buffer_arg(),
        to_y.into_buffer_arg(),
        to_b.into_buffer_arg(),
        to_c.into_buffer_arg(),
        d.into_buffer_arg(),
        projected.clone().into_buffer_arg(),
        starts.clone().into_buffer_arg(),
        w_parts.clone().into_buffer_arg(),
        biases.clone().into_buffer_arg(),
        plan.sizes(),
        plan.k,
        plan.wide,
        dtype,
        index,
    );
    let (count, dim) = cubes(&y, plan.b * plan.t * (plan.width - plan.decays()));
    decay_gradient_kernel::launch(
        &y.client,
        count,
        dim,
        projected.into_buffer_arg(),
        starts.into_buffer_arg(),
        to_log.into_buffer_arg(),
        to_projected.clone().into_buffer_arg(),
        plan.b * plan.t,
        plan.t,
        plan.width,
        plan.decays(),
        form.heads,
        dtype,
        index,
    );
    Gradients {
        projected: to_projected,
        weight: sum_of_parts(w_parts, [plan.channels, plan.k], y.dtype),
        bias: sum_of_parts(biases, [plan.channels], y.dtype),
        z_bias: sum_of_parts(z_parts, [form.inner()], y.dtype),
        d: sum_of_parts(d_parts, [form.heads], y.dtype),
    }
}
