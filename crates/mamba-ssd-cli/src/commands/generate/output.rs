//! What is printed of the answers: one as it comes, many in the order of their prompts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use mamba_ssd_models::{Completion, Finish};
use serde_json::{Map, Value, json};

use crate::args::GenerateArgs;
use crate::console::{note, print};

/// What became of a sample.
#[derive(Debug)]
pub enum Answer {
    /// It was written.
    Sample(Completion),
    /// Its prompt could not be answered.
    Refused(String),
}

/// Where answers go. Breaks off once nobody reads any more.
#[derive(Debug)]
pub struct Output<'a> {
    prompts: &'a [String],
    samples: usize,
    echo: bool,
    form: Form,
    /// Answers that are ahead of their turn.
    early: BTreeMap<(usize, usize), Answer>,
    /// Prompt and sample of the next to print.
    next: (usize, usize),
    /// Bytes of the answer at hand that have been printed.
    printed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The text alone, as it comes.
    Stream,
    /// Texts under titles.
    Titled,
    /// One object a line.
    Json,
}

impl<'a> Output<'a> {
    /// Nothing printed yet.
    pub fn new(args: &GenerateArgs, prompts: &'a [String]) -> Self {
        let form = match (args.json, prompts.len().saturating_mul(args.samples)) {
            (true, _) => Form::Json,
            (false, 1) => Form::Stream,
            (false, _) => Form::Titled,
        };
        Self {
            prompts,
            samples: args.samples,
            echo: args.echo,
            form,
            early: BTreeMap::new(),
            next: (0, 0),
            printed: 0,
        }
    }

    /// A piece of an answer.
    pub fn piece(&mut self, text: &str) -> ControlFlow<()> {
        if self.form != Form::Stream || text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.printed += text.len();
        shown(print(text))
    }

    /// That a prompt has no answer, and why.
    pub fn refuse(&mut self, prompt: usize, error: &anyhow::Error) -> ControlFlow<()> {
        let why = crate::one_line(error);
        note(format_args!("prompt {}: {why}", prompt + 1));
        self.answer(prompt, 0, Answer::Refused(why))
    }

    /// A whole answer.
    pub fn answer(&mut self, prompt: usize, sample: usize, answer: Answer) -> ControlFlow<()> {
        self.early.insert((prompt, sample), answer);
        while let Some(answer) = self.early.remove(&self.next) {
            let (prompt, sample) = self.next;
            let last = matches!(answer, Answer::Refused(_)) || sample + 1 == self.samples;
            self.next = if last { (prompt + 1, 0) } else { (prompt, sample + 1) };
            shown(print(self.formed(prompt, sample, &answer)))?;
            self.printed = 0;
        }
        ControlFlow::Continue(())
    }

    fn formed(&self, prompt: usize, sample: usize, answer: &Answer) -> String {
        match (self.form, answer) {
            (Form::Json, answer) => format!("{}\n", self.object(prompt, sample, answer)),
            (Form::Stream, Answer::Sample(completion)) => {
                whole_line(&completion.text[self.printed..], &completion.text)
            }
            (Form::Titled, Answer::Sample(completion)) => {
                let title = title(prompt, sample, self.samples, &completion.finish);
                format!("{title}\n{}\n", whole_line(&completion.text, &completion.text))
            }
            (_, Answer::Refused(_)) => String::new(), // said on standard error
        }
    }

    fn object(&self, prompt: usize, sample: usize, answer: &Answer) -> Value {
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_string(), value);
        set("index", json!(prompt));
        set("prompt", json!(self.prompts[prompt]));
        match answer {
            Answer::Refused(why) => {
                set("error", json!(why));
            }
            Answer::Sample(completion) => {
                set("sample", json!(sample));
                let before = if self.echo { self.prompts[prompt].as_str() } else { "" };
                set("text", json!(format!("{before}{}", completion.text)));
                set("tokens", json!(completion.tokens));
                set("finish", json!(completion.finish.to_string()));
                if let Finish::Failed(why) = &completion.finish {
                    set("error", json!(why));
                }
                if !completion.log_probabilities.is_empty() {
                    set("log_probabilities", json!(completion.log_probabilities));
                }
            }
        }
        Value::Object(object)
    }
}

fn title(prompt: usize, sample: usize, samples: usize, finish: &Finish) -> String {
    let sample = if samples > 1 { format!(", sample {}", sample + 1) } else { String::new() };
    let failed = match finish {
        Finish::Failed(why) => format!(", failed: {why}"),
        _ => String::new(),
    };
    format!("== prompt {}{sample}{failed}", prompt + 1)
}

/// The rest of a text, with the line break that the text lacks.
fn whole_line(rest: &str, text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{rest}{end}")
}

fn shown(read: bool) -> ControlFlow<()> {
    if read { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
