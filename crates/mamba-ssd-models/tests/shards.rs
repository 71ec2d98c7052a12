//! Weights in several files with an index.

mod common;

use common::{bits, llama, load, refused};
use mamba_ssd_models::SaveOptions;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Every limit gives the same model; a folder written anew holds nothing of what was there before.
#[test]
fn weights_beyond_a_size_are_written_in_shards() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = llama("am");
    let largest = model.to_safetensors().expect("bytes").len();
    for (limit, shards) in [(1, 22), (12_000, 5), (largest, 1)] {
        let options = SaveOptions { max_shard_bytes: limit, ..Default::default() };
        model.save_with(dir.path(), &options).expect("saved");
        assert_eq!(bits(&load(dir.path()).expect("a model")), bits(&model), "{limit}");
        let index = dir.path().join("model.safetensors.index.json");
        assert_eq!(
            (index.is_file(), dir.path().join("model.safetensors").is_file()),
            (shards > 1, shards == 1)
        );
        let files = std::fs::read_dir(dir.path()).expect("a folder").count();
        assert_eq!(files, if shards > 1 { shards + 2 } else { 2 }, "weights, index and configuration");
        if shards > 1 {
            let index: Value =
                serde_json::from_slice(&std::fs::read(index).expect("an index")).expect("JSON");
            let files: std::collections::BTreeSet<&str> =
                index["weight_map"].as_object().expect("a map").values().filter_map(Value::as_str).collect();
            assert_eq!(files.len(), shards, "{files:?}");
            assert!(files.contains(format!("model-00001-of-{shards:05}.safetensors").as_str()));
            assert!(index["metadata"]["total_size"].as_u64().is_some_and(|size| (size as usize) < largest));
        }
    }
}

#[test]
fn shards_are_one_file_in_parts() {
    let (model, dir) = (llama("am"), tempfile::tempdir().expect("a folder"));
    model.save(dir.path(), None).expect("saved");
    let whole = std::fs::read(dir.path().join("model.safetensors")).expect("weights");
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
    let tensors = SafeTensors::deserialize(&whole).expect("a file");
    let mut map = serde_json::Map::new();
    for (part, name) in ["a.safetensors", "b.safetensors"].iter().enumerate() {
        let views: Vec<(String, TensorView)> = tensors
            .tensors()
            .into_iter()
            .enumerate()
            .filter(|(index, _)| index % 2 == part)
            .map(|(_, tensor)| tensor)
            .collect();
        map.extend(views.iter().map(|(key, _)| (key.clone(), json!(name))));
        std::fs::write(dir.path().join(name), safetensors::serialize(views, None).expect("bytes"))
            .expect("written");
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).expect("written");
    assert_eq!(bits(&load(dir.path()).expect("a model")), bits(&model));

    map.insert("lost.weight".into(), json!("a.safetensors"));
    std::fs::write(&index, json!({"weight_map": map}).to_string()).expect("written");
    assert!(refused(dir.path()).contains("`lost.weight` is in no shard"));
    std::fs::remove_file(dir.path().join("b.safetensors")).expect("removed");
    assert!(refused(dir.path()).contains("b.safetensors: cannot read"));
}
