//! `mamba-ssd`: turn pretrained Transformers into Mamba-2 models, and run them.

mod args;
mod bundled;
mod commands;
mod console;
mod device;
mod files;
mod hub;
mod importance;
mod interrupt;
mod language_model;
mod memory;
mod out_of_memory;
mod progress;
mod report;
mod summary;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use interrupt::{EXIT_INTERRUPTED, Interrupted};

/// A training step allocates and frees a few hundred tensors; the system's allocator gives their pages
/// back to the kernel every time, which is a tenth of a step on the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless RUST_LOG says otherwise. CubeCL warns of every allocation that it tries again, and of measurements that
/// two processes took at the same time.
const LOG: &str = "warn,cubecl_runtime=error,cubecl_server=error";

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    mamba_ssd::keep_kernels();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    out_of_memory::silence();
    let advice = out_of_memory::advice(&cli.command);
    match on_threads(cli.threads, || out_of_memory::caught(advice, || run(cli.command))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs on one of the threads that compute: handing work to them from outside costs tens of microseconds each time.
fn on_threads(
    threads: Option<usize>,
    work: impl FnOnce() -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    const STACK: usize = 16 << 20; // as deep as a main thread's, and more
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).stack_size(STACK);
    let pool = pool.build_global();
    pool.context("the threads that compute")?;
    rayon::scope(|_| work())
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Distill(args) => commands::distill::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Reason(args) => commands::reason::run(&args),
        Command::Importance(args) => commands::importance::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::WarmUp(args) => commands::warm_up::run(&args),
        Command::Doctor => commands::doctor::run(),
    }
}

/// The error and its causes on one line; a cause that its effect already quotes is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    {
        if !line.contains(&cause) {
            let separator = if line.is_empty() { "" } else { ": " };
            line = line + separator + &cause;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let error = anyhow!("no such\n  file").context("a.json: no such file").context("cannot read");
        assert_eq!(super::one_line(&error), "cannot read: a.json: no such file");
    }
}
