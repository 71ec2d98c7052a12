use mamba_ssd_convert::LayerSelection;

use super::*;
use crate::loss::Divergence;
use crate::stage::{HiddenTarget, LogitsLoss, Objective, Trainable};

const STAGE: &str = "[[stage]]\nkind = \"matrices\"\ntokens = 1000\nlr = 1e-4\nbatch = 4\nseq_len = 64\n";

fn message(text: &str) -> String {
    match Recipe::from_toml(text) {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

fn with_stage(line: &str) -> String {
    format!("name = \"x\"\n{STAGE}{line}\n")
}

fn logits(line: &str) -> String {
    with_stage(line).replace("matrices", "logits")
}

#[test]
fn presets_parse_and_survive_a_round_trip() {
    for (name, _) in PRESETS {
        let recipe = Recipe::preset(name).expect("a valid preset");
        assert_eq!(recipe.name, *name);
        let text = recipe.to_toml().expect("TOML");
        assert_eq!(Recipe::from_toml(&text).expect("the same recipe"), recipe);
    }
}

#[test]
fn the_papers_token_counts_are_those_of_the_papers() {
    let millions = |name: &str| -> Vec<usize> {
        let recipe = Recipe::preset(name).expect("a valid preset");
        recipe.stages.iter().map(|stage| stage.tokens / 1_000_000).collect()
    };
    assert_eq!(millions("phi-mamba"), [80, 160, 2760]);
    assert_eq!(millions("llamba-1b"), [300, 2700, 5000]);
    assert_eq!(millions("llamba-3b"), [500, 4000, 5500]);
    assert_eq!(millions("llamba-8b"), [500, 5000, 6500]);
}

#[test]
fn stages_default_to_what_the_papers_do() {
    let stage = &Recipe::from_toml(&with_stage("")).expect("valid").stages[0];
    assert_eq!((stage.trainable(), stage.objective()), (Trainable::Mixers, Objective::Matrices));
    assert_eq!((stage.accumulation, stage.warmup, stage.decay), (1, 0.1, 0.1));
    assert_eq!((stage.steps(), stage.tokens_per_step()), (4, 256));

    let text = with_stage("").replace("matrices", "hidden");
    let stage = &Recipe::from_toml(&text).expect("valid").stages[0];
    assert_eq!(stage.objective(), Objective::Hidden(HiddenTarget::Block));

    let text = with_stage("divergence = { jensen_shannon = 0.5 }").replace("matrices", "logits");
    let stage = &Recipe::from_toml(&text).expect("valid").stages[0];
    let divergence = Divergence::JensenShannon(0.5);
    let expected = Objective::Logits(LogitsLoss { divergence, ..LogitsLoss::default() });
    assert_eq!((stage.trainable(), stage.objective()), (Trainable::All, expected));
}

#[test]
fn options_of_stage_three_and_of_the_student_are_read() {
    let more = "divergence = \"reverse_kl\"\nmixer_weight = 0.5\ncheckpointing = true";
    let text = with_stage(more).replace("matrices", "logits");
    let text = format!(
        "{text}\n[student]\nlayers = {{ all_except_most_important = 2 }}\n[student.kept]\njunction = \"vanilla\"\nheads = [[0, 1]]"
    );
    let recipe = Recipe::from_toml(&text).expect("valid");
    let expected =
        LogitsLoss { divergence: Divergence::ReverseKl, mixer_weight: 0.5, ..LogitsLoss::default() };
    assert_eq!(recipe.stages[0].objective(), Objective::Logits(expected));
    assert!(recipe.stages[0].checkpointing);
    assert_eq!(recipe.student.layers, LayerSelection::AllExceptMostImportant(2));
    assert_eq!(Recipe::from_toml(&recipe.to_toml().expect("TOML")).expect("its own text"), recipe);
    let cached =
        with_stage("").replace("matrices", "logits") + "\n[teacher_cache]\npath = \"cache\"\ntop_k = 64";
    assert_eq!(Recipe::from_toml(&cached).expect("valid").teacher_cache.expect("one").top_k, 64);
}

#[test]
fn rollouts_are_read_and_evenly_spread() {
    let stage = |rollouts: &str| {
        let recipe = Recipe::from_toml(&logits(&format!("rollouts = {rollouts}"))).expect("valid");
        assert_eq!(Recipe::from_toml(&recipe.to_toml().expect("TOML")).expect("its own text"), recipe);
        recipe.stages[0].clone()
    };
    let steps = |rollouts: &str| -> Vec<usize> {
        let stage = stage(rollouts);
        (0..12).filter(|&step| stage.is_rollout(step)).collect()
    };
    let found = stage("{ max_tokens = 8 }").rollouts.expect("rollouts");
    assert_eq!(found, RolloutRecipe { share: 1.0, max_tokens: 8, temperature: 1.0 });
    assert_eq!(steps("{ max_tokens = 8 }"), (0..12).collect::<Vec<_>>());
    assert_eq!(steps("{ max_tokens = 8, share = 0.5 }"), [1, 3, 5, 7, 9, 11]);
    assert_eq!(steps("{ max_tokens = 8, share = 0.25 }"), [3, 7, 11]);
    assert_eq!(steps("{ max_tokens = 8, share = 0.75 }"), [1, 2, 3, 5, 6, 7, 9, 10, 11]);
    let without = &Recipe::from_toml(&logits("")).expect("valid").stages[0];
    assert!((0..12).all(|step| !without.is_rollout(step)));
}

#[test]
fn an_impossible_recipe_is_one_clear_line() {
    let cases = [
        ("name = ".to_string(), "line 1"),
        ("name = \"x\"\nstage = []".to_string(), "no [[stage]]"),
        (format!("name = \"x\"\ntecher = \"t\"\n{STAGE}"), "techer"),
        (with_stage("lr_max = 1.0"), "lr_max"),
        (with_stage("").replace("batch = 4", "batch = 0"), "batch = 0"),
        (with_stage("accumulation = 3"), "does not divide"),
        (with_stage("").replace("1e-4", "-1.0"), "lr = -1"),
        (with_stage("warmup = 0.7\ndecay = 0.7"), "at most 1"),
        (with_stage("target = \"block\""), "kind \"hidden\""),
        (with_stage("temperature = 2.0"), "kind \"logits\""),
        (with_stage("temperature = 0.0").replace("matrices", "logits"), "above 0"),
        (with_stage("hard_label_weight = 2.0").replace("matrices", "logits"), "from 0 to 1"),
        (with_stage("divergence = { jensen_shannon = 1.0 }").replace("matrices", "logits"), "between"),
        (with_stage("mixer_weight = -1.0").replace("matrices", "logits"), "0 or more"),
        (with_stage("checkpointing = true"), "kind \"logits\""),
        (with_stage("rollouts = {}"), "kind \"logits\""),
        (logits("rollouts = {}"), "max_tokens = 256, expected at least 1 and less than seq_len = 64"),
        (logits("rollouts = { max_tokens = 0 }"), "max_tokens = 0"),
        (logits("rollouts = { max_tokens = 63, share = 0.0 }"), "share = 0, expected a number above 0"),
        (logits("rollouts = { max_tokens = 63, share = 1.5 }"), "share = 1.5, expected a number above 0"),
        (logits("rollouts = { max_tokens = 63, share = nan }"), "share = NaN"),
        (logits("rollouts = { max_tokens = 63, temperature = 0.0 }"), "rollouts: temperature = 0, expected"),
        (
            logits("rollouts = { max_tokens = 63, temperature = inf }"),
            "rollouts: temperature = inf, expected",
        ),
        (logits("rollouts = { max_tokens = 63, tokens = 1 }"), "tokens"),
        (logits("rollouts = { max_tokens = 63 }\nhard_label_weight = 0.1"), "remove hard_label_weight"),
        (
            logits("rollouts = { max_tokens = 63 }\n[teacher_cache]\npath = \"x\"\ntop_k = 8"),
            "remove [teacher_cache] or rollouts",
        ),
        (with_stage("[teacher_cache]\npath = \"x\"\ntop_k = 0"), "top_k = 0"),
        (with_stage("[optimizer]\nbeta1 = 1.0"), "beta1 = 1"),
        (with_stage("[student]\ninit = \"random\""), "random"),
    ];
    for (text, expected) in cases {
        let message = message(&text);
        assert!(message.contains(expected), "`{message}` lacks `{expected}`");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn an_unknown_preset_names_those_there_are() {
    let error = Recipe::preset("llama").expect_err("no such preset").to_string();
    assert!(error.contains("no preset `llama`") && error.contains("llamba-8b"), "{error}");
}

#[test]
fn a_recipe_file_is_named_in_its_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("r.toml");
    let error = Recipe::from_file(&path).expect_err("no file").to_string();
    assert!(error.contains("r.toml"), "{error}");
    std::fs::write(&path, "name = 3").expect("writable");
    let error = Recipe::from_file(&path).expect_err("no recipe").to_string();
    assert!(error.contains("r.toml") && error.lines().count() == 1, "{error}");
}
