//! `bench`: how fast a model reads and writes here, beside what the machine could do at best.

mod machine;
mod times;

use std::fmt::Display;

use anyhow::{Context, Result, ensure};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use mamba_ssd::{Backbone, WeightFormat};
use mamba_ssd_models::{Checkpoint, Model, ModelConfig, presets};
use serde_json::json;

use crate::args::{BenchArgs, Held};
use crate::console::{note, say, thousands};
use crate::device::DeviceChoice;
use crate::table::Table;
use crate::{hub, memory, out_of_memory};
use machine::Machine;
use times::{Times, wait};

/// Measures the machine, then prefills and steps, and prints tables or JSON.
pub fn run(args: &BenchArgs) -> Result<()> {
    check(args)?;
    let (device, held) = args.weights.on(args.device)?;
    let load = machine::load();
    let model = model(args, held, &device)?;
    let costs = Costs::of(&model);
    let bar = progress(args);
    bar.set_message("the machine");
    let machine = Machine::measure(&device, args.device == DeviceChoice::Flex);
    let mut bench = Bench { args, device, model: Some(model), costs, machine, bar };
    let prefill = args.prefill.iter().map(|&tokens| bench.prefill(tokens)).collect::<Result<Vec<_>>>()?;
    let mut decode = Vec::new();
    'all: for &context in &args.context {
        for &batch in &args.batch {
            let row = out_of_memory::fits(|| bench.decode(batch, context))?;
            bench.device.memory_cleanup(); // what a pool keeps of a batch fits no other
            let lost = row.is_none() && !bench.recovers(held)?;
            decode.push(([batch, context], row));
            if lost {
                note("the device does not recover from a batch that did not fit; the rest was not measured");
                break 'all;
            }
        }
    }
    bench.bar.finish_and_clear();
    if args.json {
        say(bench.json(&prefill, &decode, load));
    } else {
        bench.print(&prefill, &decode, load);
    }
    Ok(())
}

fn check(args: &BenchArgs) -> Result<()> {
    let positive = |name: &str, values: &[usize]| {
        ensure!(values.iter().all(|&value| value > 0), "--{name} holds 0, expected at least 1");
        Ok(())
    };
    positive("prefill", &args.prefill)?;
    positive("batch", &args.batch)?;
    positive("decode", &[args.decode])?;
    positive("runs", &[args.runs])
}

/// The model of a path or a name at the hub, or of a preset with random weights.
fn model(args: &BenchArgs, held: Held, device: &Device) -> Result<Model> {
    if let Some(name) = args.model.to_str()
        && !args.model.exists()
        && let Some(preset) = presets::by_name(name)
    {
        let config = preset.config();
        check_memory(&config, held)?;
        return Ok(held.format.store(config.init(device)));
    }
    let path = hub::local(&args.model)?;
    ensure!(
        path.exists(),
        "{} is neither a path nor the name of a preset; there are the presets {}",
        path.display(),
        presets::PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
    );
    Ok(Checkpoint::open(&path)?.load_stored(device, held.dtype, held.format)?)
}

/// An error if random weights would not fit.
fn check_memory(config: &ModelConfig, held: Held) -> Result<()> {
    // One weight at a time is drawn in f32; scales are at least a thirty-second of the integers.
    let bytes = match held.format {
        WeightFormat::Full => held.dtype.size() * config.n_params(),
        WeightFormat::Bf16 => 2 * config.n_params(),
        WeightFormat::Int8 => config.n_params() * 33 / 32,
    };
    if let Some(available) = memory::available() {
        ensure!(
            bytes <= available,
            "random weights of {} parameters take {} MB, {} MB are free; take a smaller model or narrower --weights",
            thousands(config.n_params()),
            bytes / 1_000_000,
            available / 1_000_000
        );
    }
    Ok(())
}

fn progress(args: &BenchArgs) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:20.cyan/dim} {pos} of {len}  {wide_msg}");
    let rows = 1 + args.prefill.len() + args.batch.len() * args.context.len();
    ProgressBar::new(rows as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What a model costs at least.
pub struct Costs {
    parameters: usize,
    /// Bytes of weights that every token reads.
    bytes: usize,
    /// Operations of the products of a token in the layers, and in the head.
    flops: [usize; 2],
}

impl Costs {
    /// Products are those of linear layers; an embedding is read where it serves as head.
    pub fn of(model: &Model) -> Self {
        let tied = model.config().tied();
        let costs = Self { parameters: 0, bytes: 0, flops: [0; 2] };
        let mut counter = Counter { tied, path: Vec::new(), costs };
        model.visit(&mut counter);
        let mut costs = counter.costs;
        let head = 2 * model.vocab_size() * model.d_model();
        costs.flops = if tied { [costs.flops[0], head] } else { [costs.flops[0] - head, head] };
        costs
    }

    /// Operations of the products of a token.
    pub fn per_token(&self) -> usize {
        self.flops.iter().sum()
    }
}

struct Counter {
    /// Whether the embedding serves as head; if not, a token reads but a row of it.
    tied: bool,
    path: Vec<(String, String)>,
    costs: Costs,
}

impl ModuleVisitor for Counter {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_string(), container_type.to_string()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let count = param.val().shape().num_elements();
        let (_, container) = self.path.last().map_or(("", ""), |(name, of)| (name, of));
        self.costs.parameters += count;
        if self.tied || container != "Struct:Embedding" {
            self.costs.bytes += bytes(count, param.val().dtype());
        }
        if container == "Struct:Linear" && D == 2 {
            self.costs.flops[0] += 2 * count;
        }
    }
}

/// Bytes of numbers in a dtype, scales included.
fn bytes(count: usize, dtype: DType) -> usize {
    match dtype {
        DType::QFloat(scheme) => {
            let block = scheme
                .block_size()
                .map_or(1, |size| size.as_slice().iter().map(|&n| usize::from(n)).product());
            count + count / block * 4
        }
        dtype => count * dtype.size(),
    }
}

/// What was measured for one row of a table, and the least that it could have taken.
struct Row {
    what: [usize; 2],
    times: Times,
    tokens: usize,
    floor: f64,
    /// Which of the two floors it is.
    bound: &'static str,
    state_bytes: usize,
}

/// Rows and context, and what was measured if the device has memory for them.
type Tried = ([usize; 2], Option<Row>);

/// Instead of what bounds a row's speed.
const TOO_LARGE: &str = "out of memory";

struct Bench<'a> {
    args: &'a BenchArgs,
    device: Device,
    model: Option<Model>,
    costs: Costs,
    machine: Machine,
    bar: ProgressBar,
}

impl Bench<'_> {
    fn model(&self) -> &Model {
        self.model.as_ref().expect("there but while it is loaded again")
    }

    /// After memory ran out: whether the model computes, loaded again where the device takes its weights for lost.
    fn recovers(&mut self, held: Held) -> Result<bool> {
        let works = |bench: &Self| out_of_memory::fits(|| bench.read(1)).map(|state| state.is_some());
        if works(self)? {
            return Ok(true);
        }
        self.model = None;
        self.device.memory_cleanup();
        self.model = out_of_memory::fits(|| model(self.args, held, &self.device))?;
        Ok(self.model.is_some() && works(self)?)
    }

    fn tokens(&self, count: usize) -> Tensor<1, Int> {
        let vocabulary = self.model().vocab_size() as i64;
        Tensor::<1, Int>::arange(0..count as i64, &self.device).mul_scalar(7).remainder_scalar(vocabulary)
    }

    /// One row of tokens, and the logits after the last.
    fn prefill(&mut self, length: usize) -> Result<Row> {
        self.bar.inc(1);
        self.bar.set_message(format!("prefill of {length} tokens"));
        let times = Times::of(self.args.runs, &self.device, || self.read(length).map(drop))?;
        let [layers, head] = self.costs.flops;
        let by_flops = (layers * length + head) as f64 / self.machine.flops;
        let by_bytes = self.costs.bytes as f64 / self.machine.bandwidth;
        let floor = by_flops.max(by_bytes);
        Ok(Row {
            what: [1, length],
            times,
            tokens: length,
            floor,
            bound: bound(by_flops, by_bytes),
            state_bytes: 0,
        })
    }

    /// The state after so many tokens, prefilled in chunks as `generate` does.
    fn read(&self, length: usize) -> Result<mamba_ssd::State> {
        const CHUNK: usize = 512;
        let tokens = self.tokens(length);
        let mut state = self.model().init_state(1, &self.device);
        let mut hidden = None;
        for start in (0..length).step_by(CHUNK) {
            let chunk = tokens.clone().narrow(0, start, CHUNK.min(length - start)).unsqueeze();
            let (after, next) = self.model().prefill_hidden(chunk, state);
            (hidden, state) = (Some(after), next);
        }
        if let Some(hidden) = hidden {
            let last = hidden.dims()[1] - 1;
            out_of_memory::checked(&self.model().head(hidden.narrow(1, last, 1)))?;
        }
        wait(&self.device)?;
        Ok(state)
    }

    /// Steps of a batch whose rows have read a context.
    fn decode(&mut self, batch: usize, context: usize) -> Result<Row> {
        self.bar.inc(1);
        self.bar.set_message(format!("{batch} rows after {context} tokens"));
        let start = if context == 0 { self.model().init_state(1, &self.device) } else { self.read(context)? };
        let state_bytes = batch * start.bytes();
        if let Some(available) = memory::available().filter(|_| self.args.device == DeviceChoice::Flex) {
            ensure!(
                state_bytes <= available / 2,
                "the states of {batch} rows after {context} tokens take {} MB, {} MB are free; take a smaller --batch",
                state_bytes / 1_000_000,
                available / 1_000_000
            );
        }
        let start = start.fork(batch);
        let tokens = self.tokens(batch);
        // A state of constant size is also written.
        let cache = start.bytes_per_token() * context;
        let mut state = Some(start);
        let mut step = || -> Result<Tensor<2>> {
            let (logits, next) = self.model().step(tokens.clone(), state.take().context("a state")?);
            state = Some(next);
            Ok(logits)
        };
        out_of_memory::checked(&step()?)?; // caches are copied into their room
        let times = Times::of(self.args.runs, &self.device, || {
            let mut last = step()?;
            for _ in 1..self.args.decode {
                last = step()?;
            }
            wait(&self.device)?;
            out_of_memory::checked(&last)
        })?;
        let states = 2 * (state_bytes - cache) + cache;
        let by_bytes = (self.costs.bytes + states) as f64 / self.machine.bandwidth;
        let by_flops = (batch * self.costs.flops.iter().sum::<usize>()) as f64 / self.machine.flops;
        let floor = by_bytes.max(by_flops) * self.args.decode as f64;
        let bound = bound(by_flops, by_bytes);
        Ok(Row { what: [batch, context], times, tokens: batch * self.args.decode, floor, bound, state_bytes })
    }

    fn print(&self, prefill: &[Row], decode: &[Tried], load: Option<f64>) {
        let Self { args, costs, machine, .. } = self;
        say(format_args!(
            "{}: {} parameters, {} MB of weights a token in {}; {}",
            args.model.display(),
            thousands(costs.parameters),
            costs.bytes / 1_000_000,
            args.weights,
            machine.name
        ));
        say(format_args!(
            "{} threads, load {} before; memory {:.1} GB/s, products {:.0} GFLOP/s measured now; medians of {} runs",
            rayon::current_num_threads(),
            load.map_or("unknown".into(), |load| format!("{load:.1}")),
            machine.bandwidth / 1e9,
            machine.flops / 1e9,
            args.runs
        ));
        let mut table = Table::new(["prefill", "tokens/s", "least", "most", "floor", "of the floor"]);
        for row in prefill {
            let rates = row.times.rates(row.tokens).map(rate);
            let floor = rate(row.tokens as f64 / row.floor);
            let [median, least, most] = rates;
            table.row([row.what[1].to_string(), median, least, most, floor, ratio(row)]);
        }
        say(format_args!("\n{table}\n"));
        let head = [
            "rows",
            "context",
            "tokens/s",
            "least",
            "most",
            "ms a step",
            "floor ms",
            "bound",
            "of the floor",
            "state MB",
        ];
        let mut table = Table::new(head);
        for (what, row) in decode {
            let [batch, context] = what.map(|number| number.to_string());
            let Some(row) = row else {
                let mut cells = vec!["-".to_string(); head.len()];
                (cells[0], cells[1], cells[7]) = (batch, context, TOO_LARGE.into());
                table.row(cells);
                continue;
            };
            let [median, least, most] = row.times.rates(row.tokens).map(rate);
            let step = |seconds: f64| format!("{:.2}", 1e3 * seconds / args.decode as f64);
            let state = format!("{:.1}", row.state_bytes as f64 / 1e6);
            let (now, floor) = (step(row.times.median), step(row.floor));
            table.row([batch, context, median, least, most, now, floor, row.bound.into(), ratio(row), state]);
        }
        say(&table);
    }

    fn json(&self, prefill: &[Row], decode: &[Tried], load: Option<f64>) -> impl Display {
        let of_row = |row: &Row, steps: usize| {
            let [median, least, most] = row.times.rates(row.tokens);
            json!({
                "rows": row.what[0], "tokens": row.what[1], "tokens_per_second": median,
                "slowest": least, "fastest": most, "seconds": row.times.median / steps as f64,
                "floor_seconds": row.floor / steps as f64, "bound": row.bound, "state_bytes": row.state_bytes,
            })
        };
        let prefill: Vec<_> = prefill.iter().map(|row| of_row(row, 1)).collect();
        let decode = decode.iter().map(|([rows, tokens], row)| match row {
            Some(row) => of_row(row, self.args.decode),
            None => json!({ "rows": rows, "tokens": tokens, "bound": TOO_LARGE }),
        });
        let decode: Vec<_> = decode.collect();
        json!({
            "model": self.args.model, "weights": self.args.weights.to_string(), "device": self.args.device.to_string(),
            "parameters": self.costs.parameters, "weight_bytes": self.costs.bytes, "machine": self.machine.name,
            "threads": rayon::current_num_threads(), "load": load, "runs": self.args.runs,
            "bytes_per_second": self.machine.bandwidth, "flops_per_second": self.machine.flops,
            "prefill": prefill, "decode": decode
        })
    }
}

fn bound(by_flops: f64, by_bytes: f64) -> &'static str {
    if by_flops > by_bytes { "products" } else { "memory" }
}

fn rate(tokens_per_second: f64) -> String {
    format!("{tokens_per_second:.1}")
}

fn ratio(row: &Row) -> String {
    format!("{:.2} x", row.times.median / row.floor)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use mamba_ssd::AttentionConfig;
    use mamba_ssd::rope::RotaryConfig;
    use mamba_ssd_models::LlamaConfig;

    use super::*;

    /// 31 words of width 24: read whole as a head, and not as an embedding alone.
    #[test]
    fn a_token_reads_every_weight_but_an_embedding_that_is_no_head() {
        let attention = AttentionConfig::new(24, 4, 2, 6, RotaryConfig::new(6));
        let linear = 2 * (2 * 24 * 24 + 2 * 24 * 12 + 3 * 24 * 40);
        let norms = 2 * 2 * 24 + 24;
        for tie_embeddings in [true, false] {
            let config = LlamaConfig::transformer(31, 2, attention.clone(), 40);
            let config = ModelConfig::Llama(LlamaConfig { tie_embeddings, ..config });
            let costs = Costs::of(&config.init(&Device::flex()));
            assert_eq!(costs.bytes, 4 * (linear + norms + 31 * 24), "{tie_embeddings}");
            assert_eq!(costs.flops, [2 * linear, 2 * 31 * 24], "{tie_embeddings}");
        }
        assert_eq!(bytes(640, DType::BF16), 1280);
    }
}
