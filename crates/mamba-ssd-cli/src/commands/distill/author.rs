//! The student writes the texts that it then learns from.

use mamba_ssd_models::{
    Completion, Engine, EngineOptions, Finish, Model, ReadText, Request, RequestError, Sampling, read_texts,
};
use mamba_ssd_mohawk::{Assignment, Author};

/// Texts that are written together.
const ROWS: usize = 256;
/// Tokens of prompts that are read at once.
const CHUNK: usize = 512;

/// Writes as any of these models, up to a token that ends a text.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The tokens any of which ends a text.
    pub eos: Vec<u32>,
}

impl Author<Model> for Writer {
    fn write(
        &self,
        student: &Model,
        prompts: &[Vec<u32>],
        assignment: &Assignment,
    ) -> Result<Vec<Vec<u32>>, String> {
        let options = EngineOptions { max_rows: ROWS, ..EngineOptions::default() };
        let mut engine = Engine::new(student, options);
        let texts = read(student, prompts).map_err(|error| error.to_string())?;
        for ((prompt, text), stream) in prompts.iter().zip(texts).zip(assignment.first_stream..) {
            let request = Request {
                sampling: Sampling::with_temperature(assignment.temperature as f32),
                max_new_tokens: assignment.max_tokens,
                eos: self.eos.clone(),
                seed: assignment.seed,
                first_stream: stream,
                ..Request::new(prompt.clone())
            };
            engine.submit_read(&text, request).map_err(|error| error.to_string())?;
        }
        let text = |completion: Completion| match completion.finish {
            Finish::Failed(reason) => Err(reason),
            _ => Ok(completion.tokens),
        };
        engine.complete().into_iter().map(text).collect()
    }
}

/// Reads prompts, those of one length together, and returns them in their order.
fn read(student: &Model, prompts: &[Vec<u32>]) -> Result<Vec<ReadText>, RequestError> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| prompts[index].len());
    let mut texts = Vec::with_capacity(prompts.len());
    for of_one_length in order.chunk_by(|&a, &b| prompts[a].len() == prompts[b].len()) {
        let prompts: Vec<&[u32]> = of_one_length.iter().map(|&index| &prompts[index][..]).collect();
        texts.extend(of_one_length.iter().zip(read_texts(student, &prompts, CHUNK)?));
    }
    texts.sort_by_key(|(index, _)| **index);
    Ok(texts.into_iter().map(|(_, text)| text).collect())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::ops::ControlFlow;

    use burn::tensor::Device;
    use mamba_ssd_mohawk::data::{Dataset, Document};
    use mamba_ssd_mohawk::{Distillation, Observer, Recipe, StepReport};

    use super::*;
    use crate::language_model::LanguageModel;

    fn teacher() -> LanguageModel {
        LanguageModel::bundled(&Device::flex().autodiff()).expect("the teacher")
    }

    fn prompts(teacher: &LanguageModel) -> Vec<Vec<u32>> {
        let question = |apples: usize| {
            let asked = format!("Ann has {apples} apples. She buys 4 more. How many apples does Ann have?");
            let formed = teacher.formed(&asked).expect("a form of questions");
            teacher.tokenizer.encode(&formed).expect("tokens")
        };
        (2..8).map(question).collect()
    }

    #[test]
    fn a_text_follows_from_its_prompt_and_stream_alone_and_has_no_end_token() {
        let teacher = teacher();
        let (writer, prompts) = (Writer { eos: teacher.eos.clone() }, prompts(&teacher));
        let assignment = Assignment { max_tokens: 60, temperature: 0.5, seed: 3, first_stream: 0 };
        let write = |prompts: &[Vec<u32>], first_stream| {
            let assignment = Assignment { first_stream, ..assignment };
            writer.write(&teacher.model, prompts, &assignment).expect("texts")
        };
        let all = write(&prompts, 0);
        assert_eq!(write(&prompts[4..], 4), all[4..]);
        assert_ne!(write(&prompts[4..], 0), all[4..]);
        assert_eq!(all.len(), prompts.len());
        assert!(all.iter().flatten().all(|token| !teacher.eos.contains(token)));
        assert!(all.iter().any(|text| text.len() < 60), "the teacher ends its texts: {all:?}");
        let line = writer.write(&teacher.model, &[vec![]], &assignment).expect_err("no prompt");
        assert!(line.contains("the prompt has no token"), "{line}");
    }

    /// Stops after the first step.
    struct Stop;

    impl Observer<Model> for Stop {
        fn on_step(&mut self, _step: &StepReport) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }

    #[test]
    fn a_stopped_run_goes_on_with_the_texts_it_would_have_written() {
        let teacher = teacher();
        let document = |prompt: Vec<u32>| Document { prompt: prompt.len(), tokens: prompt };
        let data = prompts(&teacher).into_iter().map(document);
        let data = Dataset::from_documents(data, teacher.eos[0]).expect("prompts");
        let recipe = "name = \"own\"\n[student]\ninit = \"qkvo\"\nbias = true\n[[stage]]\nkind = \"logits\"\ntokens = 384\nlr = 1e-3\nbatch = 2\nseq_len = 64\ndivergence = { jensen_shannon = 0.5 }\nrollouts = { max_tokens = 32 }";
        let recipe = Recipe::from_toml(recipe).expect("valid");
        let writer = Writer { eos: teacher.eos.clone() };
        let (student, _) = teacher.model.convert(&recipe.student).expect("a student");
        let run = || {
            let run = Distillation::new(&recipe, &data, teacher.model.clone(), student.clone());
            run.written_by(&writer)
        };
        let whole = run().run(&mut ()).expect("a run").student;
        let folder = tempfile::tempdir().expect("a folder");
        let stopped = run().in_folder(folder.path()).expect("empty").run(&mut Stop).expect("a run");
        let resumed = run().resume(folder.path()).expect("a checkpoint").run(&mut ()).expect("a run");
        assert!(!stopped.finished && resumed.finished);
        let prints = [&student, &stopped.student, &whole, &resumed.student].map(Model::fingerprint);
        assert!(prints[0] != prints[1] && prints[1] != prints[2], "{prints:?}");
        assert_eq!(prints[2], prints[3]);
    }
}
