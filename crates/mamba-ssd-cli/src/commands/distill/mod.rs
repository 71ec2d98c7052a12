//! `distill`: a Transformer into a Mamba-2 student, from preflight to report.

mod ablation;
mod author;
mod corpus;
mod describe;
mod examine;
mod finish;
mod folder;
mod pictures;
mod watch;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, FloatDType};
use mamba_ssd::Backbone;
use mamba_ssd_convert::LayerSelection;
use mamba_ssd_eval::Rank;
use mamba_ssd_models::Model;
use mamba_ssd_mohawk::{Distillation, Outcome, preflight};

use crate::args::DistillArgs;
use crate::console::{say, thousands};
use crate::importance::{Reading, kept, measure};
use crate::interrupt::{Interrupt, Interrupted};
use crate::language_model::LanguageModel;
use author::Writer;
use corpus::Corpus;
use examine::Examiner;
use folder::{Examination, RunFolder};
use watch::Watch;

/// Everything that a run needs from its first to its last step.
#[derive(Debug)]
struct Session {
    started: Instant,
    interrupt: Interrupt,
    device_name: String,
    folder: RunFolder,
    teacher: LanguageModel,
    corpus: Corpus,
    examiner: Examiner,
    /// Those that train beside the first.
    further: Vec<Device>,
}

/// Runs, or continues, a distillation.
pub fn run(args: &DistillArgs) -> Result<()> {
    let mut session = Session::open(args)?;
    let student = session.prepare()?;
    session.examine_before(&student)?;
    let outcome = session.train(student)?;
    finish::save_student(&session, &outcome.student)?;
    let mut summary = finish::write_results(&session, &outcome.student, &outcome.stages)?;
    if session.folder.record.ablation_seeds > 0 {
        let main = session.folder.record.stages.last().map(|examination| examination.quality);
        ablation::run(
            &mut session,
            main.unwrap_or_else(|| unreachable!("a finished run has been examined")),
        )?;
        summary = finish::write_results(&session, &outcome.student, &outcome.stages)?;
    }
    session.folder.finish()?;
    finish::print_results(&session, &summary);
    Ok(())
}

impl Session {
    /// Checks everything that can be wrong with what the user gave, cheapest first.
    fn open(args: &DistillArgs) -> Result<Self> {
        let started = Instant::now();
        let mut folder = RunFolder::open(args)?;
        let recipe = &folder.recipe;
        recipe.check_replicas(args.replicas)?;
        if let Some(cache) = &recipe.teacher_cache {
            let advice =
                || format!("cannot make {}; choose another path for [teacher_cache]", cache.path.display());
            std::fs::create_dir_all(&cache.path).with_context(advice)?;
        }
        let dtype = FloatDType::from(recipe.dtype);
        ensure!(
            dtype == FloatDType::F32 || recipe.teacher.is_some(),
            "the bundled teacher computes in f32; leave dtype out of the recipe, or give a --teacher"
        );
        let device = args.device.open_in(dtype)?.autodiff();
        let further = |n| args.device.further(n).open_in(dtype).map(Device::autodiff);
        let further = (1..args.replicas).map(further).collect::<Result<_>>()?;
        let teacher = match &recipe.teacher {
            Some(dir) => LanguageModel::load_in(dir, &device, dtype.into())?,
            None => LanguageModel::bundled(&device)?,
        };
        let corpus = Corpus::read(recipe, &teacher.tokenizer, teacher.eos[0])?;
        if let LayerSelection::AllExceptMostImportant(keep) = recipe.student.layers {
            let layers = teacher.model.n_layers();
            ensure!(
                (1..layers).contains(&keep),
                "[student] layers: all_except_most_important = {keep}, expected 1 to {} of {layers} layers",
                layers - 1
            );
            let (ranked, _) = measure(&teacher, &corpus.held_out, Reading::default(), Rank::default())?;
            let kept = kept(&ranked, keep);
            say(format_args!("keeps attention in layers {kept:?}, without which least is copied"));
            folder.recipe.student.layers = LayerSelection::AllExcept(kept);
        }
        let recipe = &folder.recipe;
        let examiner = Examiner::new(&corpus, &teacher, &recipe.eval);
        let interrupt = Interrupt::listen()?;
        Ok(Self {
            started,
            interrupt,
            device_name: match args.replicas {
                1 => args.device.to_string(),
                n => format!("{n} replicas from {}", args.device),
            },
            folder,
            teacher,
            corpus,
            examiner,
            further,
        })
    }

    /// Converts the teacher, shows what will happen, and writes the first files.
    fn prepare(&mut self) -> Result<Model> {
        let recipe = &self.folder.recipe;
        let (student, conversion) = self.teacher.model.convert(&recipe.student)?;
        let verb = if self.folder.resumed { "continues" } else { "starts" };
        say(format_args!(
            "{} {verb} in {}: teacher {}, {}, seed {}, {} tokens to train on in {} stages",
            recipe.name,
            self.folder.path().display(),
            self.teacher.name,
            self.device_name,
            recipe.seed,
            thousands(recipe.tokens()),
            recipe.stages.len()
        ));
        say(describe::conversion(&conversion));
        let words = self.teacher.tokenizer.vocab_size();
        let plan = preflight(recipe, &self.corpus.training, &self.teacher.model, &student, Some(words))?;
        say(plan);
        self.folder.begin()?;
        Ok(student)
    }

    /// Examines the teacher and the untrained student, unless that was done before an interruption.
    fn examine_before(&mut self, student: &Model) -> Result<()> {
        let teacher = self.examined("teacher", self.folder.record.teacher.clone(), &self.teacher.model)?;
        self.folder.record.teacher = Some(teacher);
        self.folder.save_record()?;
        let start = self.examined("converted", self.folder.record.start.clone(), student)?;
        self.folder.record.start = Some(start);
        self.folder.save_record()
    }

    /// The examination on record, or else a new one.
    fn examined(&self, who: &str, on_record: Option<Examination>, model: &Model) -> Result<Examination> {
        if self.interrupt.asked() {
            return Err(interrupted(&self.folder));
        }
        let examination = match on_record {
            Some(examination) => examination,
            None => self.examiner.examine(who, model)?,
        };
        say(format_args!("{who:<10} {}", describe::quality(&examination.quality)));
        Ok(examination)
    }

    /// Writes what the student learns from in stages with rollouts.
    fn writer(&self) -> Writer {
        Writer { eos: self.teacher.eos.clone() }
    }

    fn train(&mut self, student: Model) -> Result<Outcome<Model>> {
        let recipe = self.folder.recipe.clone();
        let run = Distillation::new(&recipe, &self.corpus.training, self.teacher.model.clone(), student);
        let writer = self.writer();
        let run = run.written_by(&writer).and_on(&self.further)?;
        let run = if self.folder.resumed {
            run.resume(self.folder.path())?
        } else {
            run.in_folder(self.folder.path())?
        };
        let mut watch = Watch::new(&self.interrupt, &self.examiner, &mut self.folder);
        let outcome = run.run(&mut watch)?;
        watch.close()?;
        if outcome.finished { Ok(outcome) } else { Err(interrupted(&self.folder)) }
    }
}

fn interrupted(folder: &RunFolder) -> anyhow::Error {
    Interrupted { resume: folder.resume_command() }.into()
}
