//! How the suites run a property on random cases.

use std::fmt::Debug;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FailurePersistence, FileFailurePersistence, TestRunner};

use crate::device::backend;

/// Runs `property` on `count` random cases, or as many as `PROPTEST_CASES` says. Seeds of failures
/// are kept in `proptest-regressions/<suite>.txt`, and run first; on the CPU alone, where a case takes milliseconds: a
/// software GPU compiles kernels for every shape of a case, which takes it a minute.
pub fn check<Case: Debug>(
    suite: &str,
    count: u32,
    cases: impl Strategy<Value = Case>,
    property: impl Fn(&Case),
) {
    let default = Config::default();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(count, |_| default.cases),
        failure_persistence: (backend() == "flex").then(|| seeds(suite)),
        ..default
    };
    let outcome = TestRunner::new(config).run(&cases, |case| {
        property(&case);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn seeds(suite: &str) -> Box<dyn FailurePersistence> {
    let file = match suite {
        "ssd" => concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/ssd.txt"),
        "mixers" => concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/mixers.txt"),
        "layers" => concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/layers.txt"),
        _ => panic!("no file of seeds for the suite {suite}"),
    };
    Box::new(FileFailurePersistence::Direct(file))
}

/// Lengths of the pieces that `cuts` make of `t` tokens.
pub fn lengths(t: usize, cuts: &[usize]) -> Vec<usize> {
    let mut borders: Vec<usize> =
        cuts.iter().copied().filter(|&cut| cut > 0 && cut < t).chain([0, t]).collect();
    borders.sort_unstable();
    borders.dedup();
    borders.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
