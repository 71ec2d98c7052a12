//! Whole models converted: students and hybrids of Llama and Phi.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use common::{Golden, JUNCTIONS, bits, difference, golden_model, llama, mamba2, phi, tokens};
use mamba_ssd::{Backbone, JunctionKind, MatrixMixer, Mixer};
use mamba_ssd_convert::{Action, ConversionPlan, ConvertError, Init, KeptHeads, LayerSelection};
use mamba_ssd_models::{Model, ModelConfig};

fn plan(layers: LayerSelection, init: Init) -> ConversionPlan {
    ConversionPlan { layers, init, seed: 9, ..ConversionPlan::default() }
}

fn convert(model: &Model, layers: LayerSelection) -> Model {
    model.convert(&plan(layers, Init::Mohawk)).expect("a student").0
}

#[test]
fn students_of_every_layer_are_written_as_llamba_and_phi_mamba() {
    for (family, dialect) in [
        ("llama32", "\"model_type\": \"llamba\""),
        ("phi15", "\"CoreType\": \"modules.mixers.discrete_mamba2\""),
    ] {
        let student = convert(&golden_model(family), LayerSelection::All);
        assert!(student.config_json().expect("JSON").contains(dialect), "{family}");
        let dir = tempfile::tempdir().expect("a folder");
        student.save(dir.path(), None).expect("saved");
        let loaded = Model::load(dir.path(), &Device::flex()).expect("a student");
        let ids = Golden::open(family).input_ids();
        assert_eq!(
            loaded.forward(ids.clone(), None).into_data(),
            student.forward(ids, None).into_data(),
            "{family}"
        );
    }
}

#[test]
fn a_hybrid_keeps_the_attention_of_its_other_layers() {
    for family in ["llama32", "phi15"] {
        let teacher = golden_model(family);
        let hybrid = convert(&teacher, LayerSelection::List(vec![1]));
        assert!(matches!(
            (hybrid.mixer(0), hybrid.mixer(1)),
            (Mixer::Attention(_), Mixer::DiscreteMamba2(_))
        ));
        let ids = Golden::open(family).input_ids();
        let (first, second) = (teacher.hidden_states(ids.clone(), None), hybrid.hidden_states(ids, None));
        assert_eq!(first[1].to_data(), second[1].to_data(), "{family}: layer 0 is as it was");
        assert!(difference(first[2].clone(), second[2].clone()) > 1e-3, "{family}: layer 1 is not");
    }
}

#[test]
fn everything_outside_the_mixers_is_copied() {
    let teacher = golden_model("llama32");
    let student = convert(&teacher, LayerSelection::All);
    let (Model::Llama(teacher), Model::Llama(student)) = (&teacher, &student) else { panic!("Llamas") };
    let same =
        |a: &Param<Tensor<2>>, b: &Param<Tensor<2>>| assert_eq!(a.val().into_data(), b.val().into_data());
    same(&teacher.embedding.weight, &student.embedding.weight);
    for (teacher, student) in teacher.layers.iter().zip(&student.layers) {
        same(&teacher.mlp.gate_proj.weight, &student.mlp.gate_proj.weight);
        same(&teacher.mlp.up_proj.weight, &student.mlp.up_proj.weight);
        same(&teacher.mlp.down_proj.weight, &student.mlp.down_proj.weight);
        assert_eq!(
            teacher.input_layernorm.as_ref().expect("a norm").weight.val().into_data(),
            student.input_layernorm.as_ref().expect("a norm").weight.val().into_data()
        );
    }
}

#[test]
fn matrices_of_teacher_and_student_have_the_same_shape() {
    let teacher = golden_model("llama32");
    let student = convert(&teacher, LayerSelection::All);
    let hidden = teacher.embed(tokens(2, 13));
    let of = |model: &Model| model.mixing_matrix(0, hidden.clone(), None).dims();
    assert_eq!(of(&student), of(&teacher));
    assert_eq!(student.mixer(0).n_heads(), 8);
}

/// Frozen parameters of the teacher would otherwise stay frozen in the student.
#[test]
fn the_student_is_trainable_and_shares_nothing_with_a_frozen_teacher() {
    struct Ids(Vec<(burn::module::ParamId, bool)>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push((param.id, param.val().is_require_grad()));
        }
    }
    let ids = |model: &Model| {
        let mut ids = Ids(Vec::new());
        model.visit(&mut ids);
        ids.0
    };
    let teacher = llama("aa").train().no_grad();
    let student = convert(&teacher, LayerSelection::List(vec![0]));
    let (teacher, student) = (ids(&teacher), ids(&student));
    assert!(teacher.iter().all(|(_, trainable)| !trainable));
    assert!(student.iter().all(|(_, trainable)| *trainable));
    assert!(student.iter().all(|(id, _)| teacher.iter().all(|(other, _)| other != id)));
}

#[test]
fn reports_add_up_to_teacher_and_student() {
    for (teacher, init) in [(golden_model("llama32"), Init::Qkvo), (golden_model("phi15"), Init::Mohawk)] {
        let (student, report) =
            teacher.convert(&plan(LayerSelection::List(vec![1]), init)).expect("a student");
        let kept = [Action::Copied, Action::Repeated, Action::Initialised].map(|action| report.count(action));
        assert_eq!(kept.iter().sum::<usize>(), student.n_params());
        assert_eq!(report.teacher_params, teacher.n_params());
    }
}

#[test]
fn wide_teachers_get_wide_students() {
    let (student, _) =
        golden_model("llama32").convert(&plan(LayerSelection::All, Init::Qkvo)).expect("a student");
    let ModelConfig::Llama(config) = student.config() else { panic!("a Llama") };
    assert_eq!(config.mixers.len(), 2);
}

#[test]
fn only_attention_is_converted() {
    let refused =
        |model: &Model| model.convert(&plan(LayerSelection::All, Init::Mohawk)).expect_err("no attention");
    assert_eq!(
        refused(&llama("am")),
        ConvertError::NotAttention { layer: 1, found: "a discrete Mamba-2 mixer" }
    );
    assert_eq!(refused(&mamba2(true)), ConvertError::NotAttention { layer: 0, found: "a Mamba-2 mixer" });
    let missing =
        phi("aa").convert(&plan(LayerSelection::List(vec![2]), Init::Mohawk)).expect_err("two layers");
    assert_eq!(missing, ConvertError::NoSuchLayer { layer: 2, n_layers: 2 });
}

fn with_heads(junction: JunctionKind, heads: &[(usize, usize)]) -> ConversionPlan {
    let kept = KeptHeads { junction, heads: heads.to_vec() };
    ConversionPlan { kept: Some(kept), ..plan(LayerSelection::All, Init::Mohawk) }
}

/// Eight heads in two layers, of which layer 1 keeps two and layer 0 none.
#[test]
fn hybrids_by_heads_are_saved_loaded_and_accounted_for() {
    let (teacher, ids) = (golden_model("llama32"), Golden::open("llama32").input_ids());
    for junction in JUNCTIONS {
        let (student, report) = teacher.convert(&with_heads(junction, &[(1, 6), (1, 1)])).expect("a hybrid");
        let kept = [Action::Copied, Action::Repeated, Action::Initialised].map(|action| report.count(action));
        assert_eq!(kept.iter().sum::<usize>(), student.n_params(), "{junction:?}");
        let dir = tempfile::tempdir().expect("a folder");
        student.save(dir.path(), None).expect("saved");
        let loaded = Model::load(dir.path(), &Device::flex()).expect("a hybrid");
        assert!(bits(&loaded) == bits(&student), "{junction:?}");
        let same = [&loaded, &student].map(|model| model.forward(ids.clone(), None).into_data());
        assert_eq!(same[0], same[1], "{junction:?}");
        assert_eq!(student.mixer(0).n_heads(), teacher.mixer(0).n_heads());
    }
}

/// A Merger's norm takes over the layer's, but for its ε, which is fixed: the hidden state is far above it.
#[test]
fn a_hybrid_by_heads_reads_what_the_teacher_reads() {
    let teacher = golden_model("llama32");
    let hidden = teacher.embed(tokens(2, 7)) * 1000.0;
    let values = |model: &Model| model.mixer(1).values(model.mixer_input(1, hidden.clone()), None);
    let of = |junction| teacher.convert(&with_heads(junction, &[(1, 3)])).expect("a hybrid").0;
    let [vanilla, merger] = [JunctionKind::Vanilla, JunctionKind::Merger].map(of);
    assert!(difference(values(&vanilla), values(&merger)) < 1e-5);
    let alone = convert(&teacher, LayerSelection::All);
    assert_eq!(values(&vanilla).into_data(), values(&alone).into_data());
}

#[test]
fn heads_are_kept_beside_mixers_of_llama_alone() {
    let refused = |model: &Model| {
        model.convert(&with_heads(JunctionKind::Adapter, &[(0, 0)])).expect_err("no place for heads")
    };
    assert_eq!(refused(&phi("aa")), ConvertError::NoPlaceForHeads { family: "Phi" });
    let missing = llama("aa").convert(&with_heads(JunctionKind::Adapter, &[(0, 4)])).expect_err("four heads");
    assert_eq!(missing, ConvertError::NoSuchHead { layer: 0, head: 4, n_heads: 4 });
}
