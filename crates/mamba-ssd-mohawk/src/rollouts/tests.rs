use std::sync::Mutex;

use super::*;

const EOS: u32 = 9;
const STEP: usize = 4 * 16;

/// Writes texts of other lengths at every call, and remembers what it was asked.
#[derive(Debug, Default)]
struct Scribe {
    lengths: Vec<usize>,
    calls: Mutex<Vec<(Vec<Vec<u32>>, Assignment)>>,
}

impl Author<()> for Scribe {
    fn write(&self, _: &(), prompts: &[Vec<u32>], assignment: &Assignment) -> Result<Vec<Vec<u32>>, String> {
        self.calls.lock().expect("no panic").push((prompts.to_vec(), *assignment));
        let length = |at: usize| self.lengths[at % self.lengths.len()];
        Ok((0..prompts.len()).map(|at| vec![7; length(at)]).collect())
    }
}

fn scribe(lengths: &[usize]) -> Scribe {
    Scribe { lengths: lengths.to_vec(), ..Scribe::default() }
}

fn recipe() -> Recipe {
    let stage = "[[stage]]\nkind = \"logits\"\ntokens = 640\nlr = 1e-2\nbatch = 4\nseq_len = 16";
    let text = format!("name = \"x\"\nseed = 3\n{stage}\nrollouts = {{ max_tokens = 6 }}");
    Recipe::from_toml(&text).expect("valid")
}

/// Prompts 1, 2 2, 3 3 3, one of a whole row, and a document without one.
fn data() -> Dataset {
    let document = |token: u32, prompt: usize| Document { tokens: vec![token; prompt + 2], prompt };
    let lengths = [(1, 1), (2, 2), (3, 3), (4, 16), (5, 0)];
    Dataset::from_documents(lengths.map(|(token, prompt)| document(token, prompt)), EOS).expect("documents")
}

/// What is written in a step.
fn written(author: &Scribe, step: usize) -> Dataset {
    let (recipe, data) = (recipe(), data());
    let rollouts = Rollouts::of(&recipe, 0, &data, Some(author)).expect("prompts").expect("rollouts");
    let texts = rollouts.texts(&(), step).expect("texts");
    assert!(texts.rows().rows_per_epoch() >= 4, "rows of the step come from one epoch");
    texts.data
}

#[test]
fn a_step_has_its_tokens_however_short_the_texts_are() {
    for lengths in [[6, 6], [0, 0], [1, 4]] {
        let author = scribe(&lengths);
        let texts = written(&author, 0);
        let calls = author.calls.into_inner().expect("no panic");
        let asked: usize = calls.iter().map(|(prompts, _)| prompts.len()).sum();
        assert!(texts.len() >= STEP && texts.documents() == asked, "{lengths:?}: {}", texts.len());
        // The second call knows how long texts are: nothing is written in many small calls, or for nothing.
        assert!(calls.len() <= 3 && texts.len() < STEP + 2 * 10, "{lengths:?}: {} calls", calls.len());
    }
}

#[test]
fn prompts_are_those_of_the_data_that_leave_room_and_are_masked() {
    let author = scribe(&[2, 5]);
    let (texts, data) = (written(&author, 0), data());
    assert_eq!(prompts(&data, 0, 16).expect("prompts"), [&[1][..], &[2, 2], &[3, 3, 3]]);
    let of_data: Vec<&[u32]> = data.prompts().collect();
    assert_eq!(of_data[3], [4; 16]);
    let calls = author.calls.into_inner().expect("no panic");
    let asked: Vec<Vec<u32>> = calls.iter().flat_map(|(prompts, _)| prompts.clone()).collect();
    assert!(texts.prompts().eq(asked.iter().map(Vec::as_slice)));
    for known in &of_data[..3] {
        assert!(asked.iter().any(|prompt| prompt == known), "{known:?} was not drawn");
    }
    assert!(asked.iter().all(|prompt| of_data[..3].contains(&prompt.as_slice())));
}

#[test]
fn streams_of_a_step_go_on_from_call_to_call() {
    let author = scribe(&[1]);
    written(&author, 4);
    let calls = author.calls.into_inner().expect("no panic");
    let mut stream = 0;
    for (prompts, assignment) in &calls {
        let expected = Assignment { first_stream: stream, ..calls[0].1 };
        assert_eq!(*assignment, expected);
        stream += prompts.len() as u64;
    }
    assert!(calls.len() > 1 && calls[0].1.max_tokens == 6 && calls[0].1.temperature == 1.0);
}

#[test]
fn a_step_follows_from_seed_stage_and_step() {
    let asked = |step: usize| {
        let author = scribe(&[3]);
        let texts = written(&author, step);
        let seed = author.calls.into_inner().expect("no panic")[0].1.seed;
        (texts.fingerprint(), seed)
    };
    assert_eq!(asked(2), asked(2));
    assert!(asked(2).0 != asked(3).0 && asked(2).1 != asked(3).1);
    let seed = |owner| numbers(owner).next_u64();
    assert!(seed([1, 2, 3]) != seed([2, 1, 3]) && seed([1, 2, 3]) != seed([1, 3, 2]));
}

#[test]
fn what_an_author_does_wrong_is_one_line() {
    /// Has nothing to say, or says why.
    #[derive(Debug)]
    struct Idle(Option<&'static str>);
    impl Author<()> for Idle {
        fn write(&self, _: &(), _: &[Vec<u32>], _: &Assignment) -> Result<Vec<Vec<u32>>, String> {
            self.0.map_or(Ok(Vec::new()), |reason| Err(reason.into()))
        }
    }
    let (recipe, data) = (recipe(), data());
    let line = |author: &Idle| {
        let rollouts = Rollouts::of(&recipe, 0, &data, Some(author)).expect("prompts").expect("rollouts");
        rollouts.texts(&(), 6).map(drop).expect_err("no texts").to_string()
    };
    let expected = "stage 1, step 7: no texts to learn from (out of ink): nothing was overwritten";
    assert_eq!(line(&Idle(Some("out of ink"))), expected);
    assert!(line(&Idle(None)).contains("the author wrote 0 texts, expected one for each of "));
}
