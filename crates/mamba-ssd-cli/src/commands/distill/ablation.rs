//! `--ablation`: the same number of tokens spent on the last stage, on the last two, and so on to all of them.

use anyhow::Result;
use mamba_ssd_mohawk::{Distillation, Recipe};

use super::describe;
use super::folder::Trial;
use super::watch::Bars;
use super::{Session, interrupted};
use crate::console::{say, thousands};
use crate::summary::{AblationRow, Quality};

/// Trains the students that are not in the record yet. The main run is the first seed's student of all stages.
///
/// # Errors
/// When a run fails or is interrupted; the students that are done are kept.
pub fn run(session: &mut Session, main: Quality) -> Result<()> {
    let stages = session.folder.recipe.stages.len();
    let (students, tokens) = (stages * seeds(session).len(), thousands(session.folder.recipe.tokens()));
    say(format_args!("ablation: {students} students on {tokens} tokens each"));
    for first_stage in (0..stages).rev() {
        for seed in seeds(session) {
            let done = |trial: &Trial| trial.first_stage == first_stage && trial.seed == seed;
            if session.folder.record.trials.iter().any(done) {
                continue;
            }
            let is_main = first_stage == 0 && seed == session.folder.recipe.seed;
            let quality = if is_main { main } else { train(session, first_stage, seed)? };
            say(format_args!(
                "  {:<28} seed {seed:<6} {}",
                names(&session.folder.recipe, first_stage).join(" + "),
                describe::quality(&quality)
            ));
            session.folder.record.trials.push(Trial { first_stage, seed, quality });
            session.folder.save_record()?;
        }
    }
    Ok(())
}

/// The table's rows, fewest stages first.
pub fn rows(recipe: &Recipe, trials: &[Trial]) -> Vec<AblationRow> {
    let row = |first_stage: usize| {
        let of_row = || trials.iter().filter(move |trial| trial.first_stage == first_stage);
        let quality: Vec<Quality> = of_row().map(|trial| trial.quality).collect();
        let seeds = of_row().map(|trial| trial.seed).collect();
        (!quality.is_empty())
            .then(|| AblationRow::new(names(recipe, first_stage), recipe.tokens(), seeds, &quality))
    };
    (0..recipe.stages.len()).rev().filter_map(row).collect()
}

/// The seeds of the ablation, the recipe's own first.
fn seeds(session: &Session) -> Vec<u64> {
    let first = session.folder.recipe.seed;
    (first..first + session.folder.record.ablation_seeds).collect()
}

fn train(session: &Session, first_stage: usize, seed: u64) -> Result<Quality> {
    let recipe = variant(&session.folder.recipe, first_stage, seed);
    let (student, _) = session.teacher.model.convert(&recipe.student)?;
    let run = Distillation::new(&recipe, &session.corpus.training, session.teacher.model.clone(), student);
    let writer = session.writer();
    let run = run.written_by(&writer).and_on(&session.further)?;
    let outcome = run.run(&mut Bars::new(&session.interrupt))?;
    if !outcome.finished {
        return Err(interrupted(&session.folder));
    }
    Ok(session.examiner.examine("this student", &outcome.student)?.quality)
}

/// The recipe without the stages before `first_stage`, whose tokens go to the others in proportion.
fn variant(recipe: &Recipe, first_stage: usize, seed: u64) -> Recipe {
    let mut variant = recipe.clone();
    variant.stages.drain(..first_stage);
    let growth = recipe.tokens() as f64 / variant.tokens() as f64;
    for stage in &mut variant.stages {
        stage.tokens = (stage.tokens as f64 * growth).round() as usize;
    }
    let shift = seed.wrapping_sub(recipe.seed);
    variant.seed = seed;
    variant.student.seed = recipe.student.seed.wrapping_add(shift);
    variant
}

fn names(recipe: &Recipe, first_stage: usize) -> Vec<String> {
    recipe.stages[first_stage..].iter().map(|stage| describe::kind(stage.kind).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_spends_the_same_tokens() {
        let recipe = Recipe::preset("demo").expect("a preset");
        for first_stage in 0..recipe.stages.len() {
            let variant = variant(&recipe, first_stage, recipe.seed + 1);
            let excess = variant.tokens().abs_diff(recipe.tokens());
            assert!(
                excess <= 2 * variant.stages[0].tokens_per_step() * variant.stages.len(),
                "{excess} tokens apart"
            );
            assert_eq!(variant.student.seed, recipe.student.seed + 1);
        }
    }
}
