//! `bench`: what is measured differs from run to run; what it is held against follows from the shapes.

mod support;

use serde_json::Value;
use support::{assert_refused, folder, succeeded, teacher};

#[test]
fn a_benchmark_holds_what_it_measures_against_what_is_possible() {
    let folder = folder();
    let teacher = teacher(folder.path()).display().to_string();
    let small = ["--prefill", "16", "--decode", "2", "--batch", "1,2", "--context", "4", "--runs", "1"];
    let bench =
        |extra: &[&str]| succeeded(&[&["bench", &teacher], &small[..], extra].concat(), folder.path());
    let measured = |weights: &str| -> Value {
        serde_json::from_str(&bench(&["--weights", weights, "--json"])).expect("valid JSON")
    };
    let [full, half, eighth] = ["f32", "bf16", "int8"].map(measured);
    let bytes = |value: &Value| value["weight_bytes"].as_u64().expect("a number");
    assert_eq!(bytes(&full), 4 * full["parameters"].as_u64().expect("a number"));
    assert!(bytes(&half) < bytes(&full) * 51 / 100 && bytes(&eighth) < bytes(&full) * 28 / 100);
    for value in [&full, &half, &eighth] {
        assert_eq!(value["decode"].as_array().map(Vec::len), Some(2));
        for row in [&value["prefill"][0], &value["decode"][0], &value["decode"][1]] {
            let [floor, rate] = ["floor_seconds", "tokens_per_second"].map(|key| row[key].as_f64());
            assert!(floor > Some(0.0) && rate > Some(0.0), "{row}");
        }
    }
    let table = bench(&[]);
    for part in ["of the floor", "GB/s", "load ", "least", "most", "medians of 1 runs"] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
    let row = &measured("f32")["decode"][0];
    let rate = |key: &str| row[key].as_f64().expect("a number");
    assert!(
        rate("slowest") <= rate("tokens_per_second") && rate("tokens_per_second") <= rate("fastest"),
        "{row}"
    );
    assert_refused(&["bench", &teacher, "--batch", "0"], folder.path(), &["--batch holds 0"]);
    assert_refused(
        &["bench", &teacher, "--batch", "100000000"],
        folder.path(),
        &["MB are free; take a smaller --batch"],
    );
    assert_refused(
        &["bench", "mamba9"],
        folder.path(),
        &["mamba9 is neither a path nor the name of a preset", "llamba-1b"],
    );
}
