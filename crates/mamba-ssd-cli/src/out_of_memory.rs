//! A device without enough memory. Backends tell of it by panicking, with a backtrace; the user wants to know what to lower.
//!
//! GPUs tell of it late. Memory is asked for in a thread of the device's own; if there is none, the kernels that want it do not run, nor those
//! that want what they would have written, and only who reads such a number is told. [`checked`] reads one. What a kernel merely
//! reads may count as written by it, weights among it: after memory ran out a model may have to be loaded again.

use std::any::Any;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use anyhow::{Result, anyhow};
use burn::tensor::Tensor;

use crate::args::Command;

/// What a device says that has not enough memory, where it does not panic.
#[derive(Debug)]
struct OutOfMemory(String);

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutOfMemory {}

/// Waits until a tensor is there.
///
/// # Errors
/// If it is not, for want of memory or as the device failed.
pub fn checked<const D: usize>(tensor: &Tensor<D>) -> Result<()> {
    if tensor.dims().contains(&0) {
        return Ok(());
    }
    let one = (0..D).fold(tensor.clone(), |one, axis| one.narrow(axis, 0, 1));
    one.try_into_data().map(drop).map_err(|error| failure(format!("{error:?}")))
}

/// An error of a device.
pub fn failure(said: String) -> anyhow::Error {
    if tells(&said) { OutOfMemory(said).into() } else { anyhow!("the device failed: {said}") }
}

/// Keeps such panics from the terminal; all others are shown as ever.
pub fn silence() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if !tells(message(info.payload())) {
            shown(info);
        }
    }));
}

/// Runs `work`; such a panic in it becomes an error that says what was asked for and what to lower.
///
/// # Errors
/// Those of `work`, and that one.
pub fn caught<T>(advice: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match attempt(work) {
        Ok(result) => result,
        Err(said) => {
            let size = bytes(&said)
                .map_or(String::new(), |bytes| format!(", {:.1} GB more were asked for", bytes as f64 / 1e9));
            let what = if said.contains(TOO_LARGE) {
                "a tensor is too large for the device's kernels".to_string()
            } else {
                format!("the device is out of memory{size}")
            };
            Err(anyhow!("{what}; {advice}"))
        }
    }
}

/// Runs `work`; nothing if a device ran out of memory in it.
///
/// # Errors
/// Those of `work`.
pub fn fits<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    attempt(work).map_or(Ok(None), |result| result.map(Some))
}

/// What came of `work`, or what a device without memory said in it.
fn attempt<T>(work: impl FnOnce() -> Result<T>) -> Result<Result<T>, String> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(error)) if error.is::<OutOfMemory>() => Err(error.to_string()),
        Ok(result) => Ok(result),
        Err(panic) if tells(message(&*panic)) => Err(message(&*panic).to_string()),
        Err(panic) => panic::resume_unwind(panic),
    }
}

/// What a command's user can lower.
pub fn advice(command: &Command) -> &'static str {
    match command {
        Command::Distill(_) => {
            "in the recipe raise accumulation or set checkpointing = true (allowed in the recipe.toml of an interrupted run, \
             before --resume), or lower batch or seq_len"
        }
        Command::Generate(_) => "lower --batch, --max-tokens or --prefill-chunk, or take --weights bf16",
        Command::Reason(_) => "lower --batch or --max-tokens, or take --weights bf16",
        Command::Eval(_) => "lower --window, or take --dtype bf16",
        Command::Bench(_) => "lower --batch, --prefill or --context, or take --weights bf16",
        _ => "take a smaller model or another --device",
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// What our own kernels say of more numbers than they count to.
const TOO_LARGE: &str = "kernels count in 32 bits";

fn tells(message: &str) -> bool {
    let message = message.to_lowercase();
    const WORDS: [&str; 12] = [
        "out of memory",
        "out-of-memory",
        "outofmemory",
        "out_of_memory",
        "out of device memory",
        "can't allocate buffer of size", // larger than the device
        "cuda allocation error",
        "was never allocated",
        "never initialized",
        "every page size the memory tracks still holds",
        "unable to reserve pinned memory",
        TOO_LARGE,
    ];
    WORDS.iter().any(|words| message.contains(words))
}

/// The first number of bytes in a message.
fn bytes(message: &str) -> Option<u64> {
    let words: Vec<&str> = message.split_whitespace().collect();
    let of = |pair: &[&str]| match (pair[0], pair[1]) {
        (number, "bytes") | ("size:", number) => number.parse().ok(),
        _ => None,
    };
    words.windows(2).find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(message: &'static str) -> impl FnOnce() -> Result<()> {
        move || panic!("{message}")
    }

    #[test]
    fn missing_memory_becomes_one_line_of_advice() {
        silence();
        let line = |message| caught("lower it", panics(message)).expect_err("no memory").to_string();
        assert_eq!(
            line(
                "called `Result::unwrap()` on an `Err` value: out of device memory allocating 2500000000 bytes\nbacktrace"
            ),
            "the device is out of memory, 2.5 GB more were asked for; lower it"
        );
        assert_eq!(
            line(
                "An IO error happened\nCaused by:\n  can't allocate buffer of size: 103079215104\nNo backtrace available"
            ),
            "the device is out of memory, 103.1 GB more were asked for; lower it"
        );
        assert_eq!(line("Error(OutOfMemory { reason: .. })"), "the device is out of memory; lower it");
        assert_eq!(caught("", || Ok(3)).expect("no panic"), 3);
        let late = || -> Result<()> { Err(failure("ServerError: the buffer was never allocated".into())) };
        assert_eq!(fits(late).expect("no other error"), None);
        assert_eq!(
            caught("lower it", late).expect_err("no memory").to_string(),
            "the device is out of memory; lower it"
        );
        let other = || -> Result<()> { Err(failure("a kernel does not compile".into())) };
        assert_eq!(
            fits(other).expect_err("an error").to_string(),
            "the device failed: a kernel does not compile"
        );
        assert_eq!(
            caught("", || -> Result<()> { Err(anyhow!("other")) }).expect_err("an error").to_string(),
            "other"
        );
    }

    #[test]
    #[should_panic(expected = "index out of range")]
    fn other_panics_stay_what_they_are() {
        let _ = caught("", panics("index out of range"));
    }
}
