//! Ctrl-C. The first asks the running step to be the last one; the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// The exit code of a program that a SIGINT ended: 128 + 2.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Set once the user has asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen. Call once in a process.
    pub fn listen() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let asked = interrupt.0.clone();
        ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(EXIT_INTERRUPTED));
            }
            eprintln!("stopping after this step; press Ctrl-C again to stop at once");
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(interrupt)
    }

    /// True after the first Ctrl-C.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The run was stopped by the user and can be continued.
#[derive(Debug)]
pub struct Interrupted {
    /// The command that continues it.
    pub resume: String,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped by Ctrl-C; continue with: {}", self.resume)
    }
}

impl std::error::Error for Interrupted {}
