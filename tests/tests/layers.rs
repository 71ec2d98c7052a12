//! The parts of mixers against plain loops: convolution, norms, rotary embedding.

use burn::module::Param;
use mamba_ssd::Segments;
use mamba_ssd::conv::{causal_conv1d, shifted_sums};
use mamba_ssd::norm::NormConfig;
use mamba_ssd::rope::{Llama3Scaling, RotaryConfig, rotate};
use mamba_ssd_tests::cases::{check, lengths};
use mamba_ssd_tests::device::{device, widest};
use mamba_ssd_tests::evaluate::{tensor, values};
use mamba_ssd_tests::golden::json;
use mamba_ssd_tests::limits::{mixer_limit, relative_error};
use mamba_ssd_tests::problem::round;
use mamba_ssd_tests::rng::Rng;
use proptest::collection::vec;
use proptest::prelude::*;

fn normals(seed: u64, count: usize) -> Vec<f64> {
    round(Rng::new(seed).normals(count), widest())
}

fn assert_close(what: &str, got: &[f64], want: &[f64]) {
    let (error, limit) = (relative_error(got, want, want), mixer_limit(widest()));
    assert!(error <= limit, "{what}: relative error {error:.1e} above {limit:.0e}");
}

/// A convolution: sizes, and where each row is cut into documents.
#[derive(Clone, Debug)]
struct Spec {
    b: usize,
    t: usize,
    c: usize,
    k: usize,
    documents: Option<Vec<Vec<usize>>>,
    carried: bool,
    seed: u64,
}

fn convolutions() -> impl Strategy<Value = Spec> {
    let sizes = (1..=3usize, 1..30usize, 1..=5usize, 2..=5usize);
    sizes.prop_flat_map(|(b, t, c, k)| {
        let rows = proptest::option::of(vec(vec(0..t, 0..5), b));
        (rows, any::<bool>(), any::<u64>()).prop_map(move |(rows, carried, seed)| {
            let documents = rows.map(|rows| rows.iter().map(|cuts| lengths(t, cuts)).collect());
            Spec { b, t, c, k, documents, carried, seed }
        })
    })
}

/// The arrays of a convolution; `window [b k-1+t c]` is the carried tokens, then x.
struct Arrays {
    window: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Spec {
    fn draw(&self) -> Arrays {
        let Spec { b, t, c, k, .. } = *self;
        let rows = k - 1 + t;
        let mut window = normals(self.seed, b * rows * c);
        if !self.carried {
            for row in window.chunks_mut(rows * c) {
                row[..(k - 1) * c].fill(0.0);
            }
        }
        Arrays { window, weight: normals(self.seed ^ 1, c * k), bias: normals(self.seed ^ 2, c) }
    }

    /// Calls `visit(output, window, weight)` with the place of every product that is summed.
    fn products(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let Spec { b, t, c, k, .. } = *self;
        for (row, i) in (0..b).flat_map(|row| (0..t).map(move |i| (row, i))) {
            let start = self.start(row, i);
            for j in (0..k).filter(|j| start == 0 || i + j >= start + k - 1) {
                for channel in 0..c {
                    let place = |length: usize, i: usize| (row * length + i) * c + channel;
                    visit(place(t, i), place(k - 1 + t, i + j), channel * k + j);
                }
            }
        }
    }

    /// First token of the document that token `i` of `row` belongs to.
    fn start(&self, row: usize, i: usize) -> usize {
        let mut start = 0;
        for length in self.documents.iter().flat_map(|rows| &rows[row]) {
            if i < start + length {
                break;
            }
            start += length;
        }
        start
    }

    fn forward(&self, arrays: &Arrays) -> Vec<f64> {
        let mut y: Vec<f64> = arrays.bias.iter().copied().cycle().take(self.b * self.t * self.c).collect();
        self.products(|to, from, tap| y[to] += arrays.weight[tap] * arrays.window[from]);
        y
    }

    fn backward(&self, arrays: &Arrays, dy: &[f64]) -> Arrays {
        let zeros = |like: &Vec<f64>| vec![0.0; like.len()];
        let (mut window, mut weight) = (zeros(&arrays.window), zeros(&arrays.weight));
        self.products(|to, from, tap| {
            window[from] += arrays.weight[tap] * dy[to];
            weight[tap] += arrays.window[from] * dy[to];
        });
        let bias = (0..self.c).map(|channel| dy.iter().skip(channel).step_by(self.c).sum()).collect();
        Arrays { window, weight, bias }
    }

    /// Output, carried window, and gradients, by `causal_conv1d` or by its form in tensor operations.
    fn run(&self, arrays: &Arrays, dy: &[f64], by_shifted_sums: bool) -> (Vec<f64>, Vec<f64>, Arrays) {
        let Spec { b, t, c, k, .. } = *self;
        let (device, dtype) = (device().autodiff(), widest());
        let window = tensor(&arrays.window, [b, k - 1 + t, c], dtype, &device).require_grad();
        let weight = tensor(&arrays.weight, [c, k], dtype, &device).require_grad();
        let bias = tensor(&arrays.bias, [c], dtype, &device).require_grad();
        let segments = self.documents.as_ref().map(|rows| Segments::from_lengths(rows, &device));
        let (taps, shift) = (weight.clone(), Some(bias.clone()));
        let (y, carried) = if by_shifted_sums {
            let y = shifted_sums(&window, taps, shift, segments.as_ref());
            (y, window.clone().slice([0..b, t..k - 1 + t]))
        } else {
            let x = window.clone().slice([0..b, k - 1..k - 1 + t]);
            let carried = self.carried.then(|| window.clone().slice([0..b, 0..k - 1]));
            causal_conv1d(x, taps, shift, carried, segments.as_ref())
        };
        let grads = (y.clone() * tensor(dy, [b, t, c], dtype, &device)).sum().backward();
        let gradients = Arrays {
            window: values(window.grad(&grads).expect("a gradient of x")),
            weight: values(weight.grad(&grads).expect("a gradient of the weight")),
            bias: values(bias.grad(&grads).expect("a gradient of the bias")),
        };
        (values(y), values(carried), gradients)
    }
}

#[test]
fn causal_convolution_and_its_gradients_equal_plain_loops() {
    check("layers", 128, convolutions(), |spec: &Spec| {
        let Spec { b, t, c, k, .. } = *spec;
        let (arrays, dy) = (spec.draw(), normals(spec.seed ^ 3, b * t * c));
        let (y, gradients) = (spec.forward(&arrays), spec.backward(&arrays, &dy));
        let carried: Vec<f64> =
            arrays.window.chunks((k - 1 + t) * c).flat_map(|row| row[t * c..].to_vec()).collect();
        for by_shifted_sums in [false, true] {
            let got = spec.run(&arrays, &dy, by_shifted_sums);
            assert_close("y", &got.0, &y);
            assert_close("carried window", &got.1, &carried);
            assert_close("gradient of the weight", &got.2.weight, &gradients.weight);
            assert_close("gradient of the bias", &got.2.bias, &gradients.bias);
            if spec.carried || by_shifted_sums {
                assert_close("gradient of the window", &got.2.window, &gradients.window);
            }
        }
    });
}

#[test]
fn norms_equal_plain_loops_group_by_group() {
    let sizes = (1..=2usize, 1..=7usize, 1..=4usize, 1..=6usize, any::<u64>());
    check("layers", 64, sizes, |&(b, t, groups, size, seed): &(usize, usize, usize, usize, u64)| {
        let (device, dtype, d) = (device(), widest(), groups * size);
        let (y, z) = (normals(seed, b * t * d), normals(seed ^ 1, b * t * d));
        let (weight, bias) = (normals(seed ^ 2, d), normals(seed ^ 3, d));
        let input = |x: &[f64]| tensor(x, [b, t, d], dtype, &device);
        let param = |x: &[f64]| Param::from_tensor(tensor(x, [d], dtype, &device));
        let config = NormConfig::new(d).with_epsilon(1e-3);

        let mut rms = config.init_rms(&device);
        rms.weight = param(&weight);
        assert_close("RMS norm", &values(rms.forward(input(&y))), &scale(&rms_loop(&y, d), &weight));

        let mut layer = config.init_layer(&device);
        (layer.weight, layer.bias) = (param(&weight), param(&bias));
        let centred: Vec<f64> = y.chunks(d).flat_map(centre).collect();
        let shifted = scale(&rms_loop(&centred, d), &weight);
        let shifted: Vec<f64> = shifted.iter().enumerate().map(|(i, x)| x + bias[i % d]).collect();
        assert_close("layer norm", &values(layer.forward(input(&y))), &shifted);

        let mut gated = config.init_gated(groups, &device);
        gated.weight = param(&weight);
        let product: Vec<f64> = y.iter().zip(&z).map(|(y, z)| y * z / (1.0 + (-z).exp())).collect();
        let want = scale(&rms_loop(&product, size), &weight);
        assert_close("gated RMS norm", &values(gated.forward(input(&y), input(&z))), &want);
    });
}

/// `x / sqrt(mean(x²) + ε)` over every `size` values, with ε = 1e-3.
fn rms_loop(x: &[f64], size: usize) -> Vec<f64> {
    let normal = |part: &[f64]| {
        let mean = part.iter().map(|x| x * x).sum::<f64>() / part.len() as f64;
        part.iter().map(|x| x / (mean + 1e-3).sqrt()).collect::<Vec<_>>()
    };
    x.chunks(size).flat_map(normal).collect()
}

fn centre(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    x.iter().map(|x| x - mean).collect()
}

fn scale(x: &[f64], weight: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| x * weight[i % weight.len()]).collect()
}

#[test]
fn llama3_frequencies_meet_the_published_ones() {
    let constants = &json("peer_constants")["llama3_inv_freq"];
    let number = |key: &str| constants[key].as_f64().expect("a number");
    let scaling = Llama3Scaling::new(
        number("factor"),
        number("low_freq_factor"),
        number("high_freq_factor"),
        number("original_max_position_embeddings") as usize,
    );
    let config = RotaryConfig::new(number("head_dim") as usize)
        .with_theta(number("theta"))
        .with_scaling(Some(scaling));
    let want: Vec<f64> =
        constants["expected"].as_array().expect("an array").iter().filter_map(|x| x.as_f64()).collect();
    let got = config.inv_freq();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!((got / want - 1.0).abs() < number("rtol"), "{got} instead of {want}");
    }
}

#[test]
fn rotation_equals_a_plain_loop_at_the_positions_of_documents() {
    let sizes = (1..=2usize, 1..20usize, 1..=3usize, 1..=4usize, 0..=4usize, 0..20usize, any::<u64>());
    check("layers", 64, sizes, |&(b, t, h, half_d, half, cut, seed): &Rotation| {
        let (device, dtype, d) = (device(), widest(), 2 * half_d);
        let config = RotaryConfig::new(2 * half.min(half_d)).with_theta(100.0);
        let x = normals(seed, b * t * h * d);
        let segments = Segments::from_lengths(&vec![lengths(t, &[cut]); b], &device);
        let rotated = rotate(tensor(&x, [b, t, h, d], dtype, &device), segments.positions(), &config);
        let position = |i: usize| if cut > 0 && cut < t && i >= cut { i - cut } else { i };
        let mut want = Vec::with_capacity(x.len());
        for (vector, x) in x.chunks(d).enumerate() {
            want.extend(rotate_one(x, position(vector / h % t) as f64, &config));
        }
        assert_close("rotation", &values(rotated), &want);
    });
}

/// b, t, h, half the features, half the rotated features, a document border, a seed.
type Rotation = (usize, usize, usize, usize, usize, usize, u64);

fn rotate_one(x: &[f64], position: f64, config: &RotaryConfig) -> Vec<f64> {
    let half = config.dim / 2;
    let mut rotated = x.to_vec();
    for (i, frequency) in config.inv_freq().into_iter().enumerate() {
        let (sin, cos) = (position * frequency).sin_cos();
        rotated[i] = x[i] * cos - x[i + half] * sin;
        rotated[i + half] = x[i + half] * cos + x[i] * sin;
    }
    rotated
}
