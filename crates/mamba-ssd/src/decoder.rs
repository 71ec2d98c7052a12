//! Decoding without launch overhead: one step captured as a graph and replayed.
//!
//! A step of a small batch is hundreds of short kernels, and starting each costs more than running it. Where
//! the device records graphs (CUDA, ROCm, wgpu), [`Decoder`] records one step over fixed buffers and then
//! starts all of it at once. Elsewhere, and for models with a key-value cache, whose step grows, it runs the
//! step as it is.

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{DType, Device, Graph, Int, Tensor, capture};

use crate::{Backbone, MixerState, State};

/// A model that decodes a batch of fixed size, one token a row at a time.
///
/// It stays on the thread that made it, whose stream of work its graph belongs to.
///
/// # Example
///
/// ```ignore
/// let (logits, state) = model.prefill(prompt, model.init_state(1, &device));
/// let mut decoder = Decoder::new(model, state, &device);
/// let logits = decoder.step(tokens); // [b v]
/// ```
pub struct Decoder {
    step: Step,
    inputs: Rc<RefCell<Inputs>>,
}

/// What a step reads: in fixed buffers where it is recorded.
struct Inputs {
    tokens: Tensor<1, Int>,
    state: Option<State>,
}

type Run = Box<dyn FnMut() -> Tensor<2>>;

enum Step {
    Recorded(Box<Graph<Tensor<2>, Run>>),
    Plain(Run),
}

impl Decoder {
    /// A decoder that continues `state`, whose rows are the batch. Recording runs a few steps and then puts
    /// the state back; where the recording does not do what steps by hand do, steps stay as they are.
    pub fn new<M: Backbone + 'static>(model: M, state: State, device: &Device) -> Self {
        let batch = state.layers.first().map_or(1, MixerState::batch);
        let tokens = Tensor::zeros([batch], device);
        let inputs = Rc::new(RefCell::new(Inputs { tokens, state: Some(state.clone()) }));
        if records_graphs(device) && state.layers.iter().all(MixerState::is_constant) {
            let mut graph = capture(device, run(model.clone(), inputs.clone()));
            if graph.is_hardware() {
                restore(&inputs, &state);
                if continues(&mut graph, &inputs, &model, &state) {
                    restore(&inputs, &state);
                    return Self { step: Step::Recorded(Box::new(graph)), inputs };
                }
            }
            inputs.borrow_mut().state = Some(state);
        }
        let run = run(model, inputs.clone());
        Self { step: Step::Plain(run), inputs }
    }

    /// Logits `[b v]` after one token a row, `[b]`.
    ///
    /// # Panics
    ///
    /// If there are not as many tokens as rows.
    pub fn step(&mut self, tokens: Tensor<1, Int>) -> Tensor<2> {
        {
            let mut inputs = self.inputs.borrow_mut();
            assert_eq!(tokens.dims(), inputs.tokens.dims(), "one token for each row of the state");
            let before = inputs.tokens.clone();
            inputs.tokens = if self.is_recorded() { overwrite(before, tokens) } else { tokens };
        }
        match &mut self.step {
            Step::Plain(run) => run(),
            Step::Recorded(graph) => replay(graph),
        }
    }

    /// Whether a step is one recorded graph.
    pub fn is_recorded(&self) -> bool {
        matches!(&self.step, Step::Recorded(graph) if graph.is_hardware())
    }

    /// The state after the last step.
    pub fn into_state(self) -> State {
        self.inputs.borrow_mut().state.take().expect("the state that the last step left")
    }
}

fn run<M: Backbone + 'static>(model: M, inputs: Rc<RefCell<Inputs>>) -> Run {
    Box::new(move || {
        let mut inputs = inputs.borrow_mut();
        let state = inputs.state.take().expect("the state that the last step left");
        let (logits, state) = model.step(inputs.tokens.clone(), state);
        inputs.state = Some(state);
        logits
    })
}

/// Writes the state at the start into the buffers of the recorded one.
fn restore(inputs: &RefCell<Inputs>, state: &State) {
    let mut inputs = inputs.borrow_mut();
    let recorded = inputs.state.take().expect("the state that the last step left");
    inputs.state = Some(overwrite_state(recorded, state.clone()));
}

/// Whether two recorded steps leave the state that two steps by hand leave. They do not where a layer writes
/// its state elsewhere than it reads it, for want of a native step: a recording would stand still.
fn continues<M: Backbone>(
    graph: &mut Graph<Tensor<2>, Run>,
    inputs: &RefCell<Inputs>,
    model: &M,
    state: &State,
) -> bool {
    const CLOSE: f64 = 0.02; // far above the rounding of bf16, far below another token's state
    let token = |id: i64| inputs.borrow().tokens.clone().full_like(id);
    let mut by_hand = state.clone();
    for id in [i64::from(model.vocab_size() > 1), 0] {
        let tokens = token(id);
        by_hand = model.step(tokens.clone(), by_hand).1;
        let before = inputs.borrow().tokens.clone();
        let after = overwrite(before, tokens);
        inputs.borrow_mut().tokens = after;
        drop(replay(graph));
    }
    let recorded = inputs.borrow().state.clone();
    let pairs = recorded.into_iter().flat_map(|state| state.layers).zip(by_hand.layers);
    pairs.into_iter().all(|pair| match pair {
        (MixerState::Ssm { conv, ssm }, MixerState::Ssm { conv: want_conv, ssm: want_ssm }) => {
            distance(conv, want_conv) < CLOSE && distance(ssm, want_ssm) < CLOSE
        }
        _ => false,
    })
}

/// Relative L2 distance.
fn distance<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f64 {
    let norm = |x: Tensor<D>| x.cast(DType::F32).square().sum().sqrt().into_scalar::<f64>();
    let size = norm(want.clone());
    norm(got - want) / size.max(f64::MIN_POSITIVE)
}

/// Runs the recorded step; its logits are copied, so that they outlive the next one.
#[allow(unsafe_code, reason = "burn leaves the lifetime of a graph's buffers to its caller")]
fn replay(graph: &mut Graph<Tensor<2>, Run>) -> Tensor<2> {
    // SAFETY: the graph's closure holds the model and, through `inputs`, the tokens and the state; the graph
    // itself holds the logits, and its own pages hold what lies between. None of these buffers leaves this
    // type while it lives, and it is not `Send`: tokens are written, steps run and logits copied on one thread,
    // so on the stream that the graph was recorded on unless that thread changes its stream by CubeCL.
    let logits = unsafe { graph.replay() }.clone();
    logits * 1.0
}

/// Whether steps on `device` can be recorded with gradients left out.
fn records_graphs(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "cube")]
        burn::backend::DispatchDevice::Cube(_) => !device.is_autodiff(),
        #[allow(unreachable_patterns)] // other backends that a program may compile in
        _ => false,
    }
}

/// Writes `source` into the buffer of `target`, which a graph reads.
fn overwrite(target: Tensor<1, Int>, source: Tensor<1, Int>) -> Tensor<1, Int> {
    #[cfg(feature = "cube")]
    return crate::kernels::overwrite_int(target, source);
    #[cfg(not(feature = "cube"))]
    {
        drop(target);
        source
    }
}

/// Writes one state into the buffers of another.
fn overwrite_state(target: State, source: State) -> State {
    let layers =
        target.layers.into_iter().zip(source.layers).map(|(target, source)| match (target, source) {
            #[cfg(feature = "cube")]
            (MixerState::Ssm { conv, ssm }, MixerState::Ssm { conv: from_conv, ssm: from_ssm }) => {
                MixerState::Ssm {
                    conv: crate::kernels::overwrite_float(conv, from_conv),
                    ssm: crate::kernels::overwrite_float(ssm, from_ssm),
                }
            }
            (_, source) => source,
        });
    State { layers: layers.collect() }
}
