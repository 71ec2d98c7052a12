//! profile
#![allow(missing_docs, clippy::print_stdout)]
use burn::module::Module;
use burn::tensor::*;
use mamba_ssd::*;
use std::time::Instant;
fn time(name: &str, mut f: impl FnMut()) {
    f();
    f();
    let mut v: Vec<f64> = (0..7)
        .map(|_| {
            let s = Instant::now();
            f();
            s.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    v.sort_by(f64::total_cmp);
    println!("{name:40} {:8.2} ms", v[3]);
}
fn main() {
    let dev = Device::flex();
    let ad = dev.clone().autodiff();
    let (b, t, d, h, n) = (16usize, 128usize, 128usize, 4usize, 32usize);
    let r4 = |s: [usize; 4], d: &Device| Tensor::<4>::random(s, Distribution::Normal(0.0, 1.0), d);
    for chunk in [32usize, 64, 128] {
        let mk = |d: &Device| {
            SsdInput::new(
                r4([b, t, h, n], d),
                -Tensor::<3>::random([b, t, h], Distribution::Uniform(0.0, 1.0), d),
                r4([b, t, h, n], d),
                r4([b, t, h, n], d),
            )
        };
        let i = mk(&dev);
        time(&format!("chunk_scan {chunk} fwd"), || {
            chunk_scan(i.clone(), chunk).y.sum().into_scalar::<f32>();
        });
        let i = mk(&ad);
        let i = SsdInput {
            x: i.x.require_grad(),
            log_a: i.log_a.detach().require_grad(),
            b: i.b.require_grad(),
            c: i.c.require_grad(),
            state: None,
            segments: None,
        };
        time(&format!("chunk_scan {chunk} fwd+bwd"), || {
            let g = chunk_scan(i.clone(), chunk).y.sum().backward();
            let _ = i.x.grad(&g);
        });
    }
    let i = SsdInput::new(
        r4([b, t, h, n], &ad).require_grad(),
        -Tensor::<3>::random([b, t, h], Distribution::Uniform(0.0, 1.0), &ad),
        r4([b, t, h, n], &ad).require_grad(),
        r4([b, t, h, n], &ad).require_grad(),
    );
    time("matrix fwd+bwd", || {
        let g = matrix(i.clone()).y.sum().backward();
        let _ = i.x.grad(&g);
    });
    for chunk in [32usize, 128] {
        let cfg = DiscreteMamba2Config::new(d, h, n).with_chunk_size(chunk);
        let m = cfg.init(&ad);
        let u = Tensor::<3>::random([b, t, d], Distribution::Normal(0.0, 1.0), &ad);
        let mi = m.valid();
        let ui = u.clone().inner();
        time("dm2 fwd (inner)", || {
            mi.forward(ui.clone(), None).sum().into_scalar::<f32>();
        });
        time("dm2 fwd+bwd", || {
            let _g = m.forward(u.clone(), None).sum().backward();
        });
        time("dm2 matrix fwd+bwd", || {
            let _g = m.mixing_matrix(u.clone(), None).sum().backward();
        });
    }
    let w = Tensor::<2>::random([384, 4], Distribution::Default, &ad).require_grad();
    let x = Tensor::<3>::random([b, t, 384], Distribution::Default, &ad).require_grad();
    time("conv fwd+bwd", || {
        let _g = conv::causal_conv1d(x.clone(), w.clone(), None, None, None).0.sum().backward();
    });
    use burn::tensor::module::conv1d;
    use burn::tensor::ops::ConvOptions;
    let w3 = Tensor::<3>::random([384, 1, 4], Distribution::Default, &ad).require_grad();
    time("burn conv1d fwd+bwd", || {
        let xp = x.clone().swap_dims(1, 2);
        let y = conv1d(xp, w3.clone(), None, ConvOptions::new([1], [3], [1], 384));
        let _g = y.swap_dims(1, 2).sum().backward();
    });
    time("burn conv1d fwd", || {
        let xp = x.clone().inner().swap_dims(1, 2);
        let y = conv1d(xp, w3.clone().inner(), None, ConvOptions::new([1], [3], [1], 384));
        let _: f32 = y.swap_dims(1, 2).sum().into_scalar();
    });
    time("conv fwd", || {
        let _: f32 =
            conv::causal_conv1d(x.clone().inner(), w.clone().inner(), None, None, None).0.sum().into_scalar();
    });
    let lin = burn::nn::LinearConfig::new(d, 516).with_bias(false).init(&ad);
    let u = Tensor::<3>::random([b, t, d], Distribution::Normal(0.0, 1.0), &ad).require_grad();
    time("linear 128x516 fwd+bwd", || {
        let _g = lin.forward(u.clone()).sum().backward();
    });
    let att = AttentionConfig::new(d, h, h, n, rope::RotaryConfig::new(n)).init(&dev);
    let ui = Tensor::<3>::random([b, t, d], Distribution::Normal(0.0, 1.0), &dev);
    time("attention fwd inner", || {
        att.forward(ui.clone(), None).sum().into_scalar::<f32>();
    });
    let z = Tensor::<3>::random([b, t, 512], Distribution::Normal(0.0, 1.0), &ad).require_grad();
    time("silu 1M fwd+bwd", || {
        let _g = activation::silu(z.clone()).sum().backward();
    });
    let l = Tensor::<3>::random([b, t, 512], Distribution::Normal(0.0, 1.0), &ad).require_grad();
    time("log_softmax 1M fwd+bwd", || {
        let _g = activation::log_softmax(l.clone(), 2).sum().backward();
    });
}
