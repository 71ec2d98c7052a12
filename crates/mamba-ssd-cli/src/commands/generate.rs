//! `generate`: the continuation of a prompt, printed as it comes.

use std::path::Path;

use anyhow::{Result, ensure};
use mamba_ssd_models::{GenerateOptions, Sampling, Tokenizer, generate_one};

use crate::args::GenerateArgs;
use crate::console::{print, say};
use crate::files;
use crate::hub;
use crate::language_model::{LanguageModel, PROMPT_FORMAT, QUESTION};

/// Loads the model and writes what it answers.
pub fn run(args: &GenerateArgs) -> Result<()> {
    ensure!(!args.prompt.trim().is_empty(), "--prompt is empty; give it a text to continue");
    let model = hub::local(&args.model)?;
    let loaded = LanguageModel::load(&model, &args.device.open()?)?;
    let prompt = tokens(args, &model, &loaded)?;
    let LanguageModel { model, tokenizer, eos, .. } = loaded;
    ensure!(!prompt.is_empty(), "--prompt has no token; give it a text that the tokenizer knows");
    let options = GenerateOptions {
        sampling: Sampling {
            temperature: args.temperature as f32,
            top_p: args.top_p.map(|p| p as f32),
            ..Sampling::default()
        },
        max_new_tokens: args.max_tokens,
        eos,
        seed: args.seed,
        first_stream: 0,
    };
    let mut stream = TextStream::new(&tokenizer);
    generate_one(&model, &prompt, &options, |token| stream.push(token));
    stream.end_line();
    Ok(())
}

/// The prompt's tokens. A chat template writes the tokens that begin a text itself.
fn tokens(args: &GenerateArgs, path: &Path, model: &LanguageModel) -> Result<Vec<u32>> {
    if args.chat {
        let text = model.conversation(args.system.as_deref(), &args.prompt)?;
        return Ok(model.tokenizer.encode(&text)?);
    }
    Ok(model.tokenizer.encode_with_special(&formed(args, path)?)?)
}

/// The prompt in the form that the model was trained on, if its folder gives one.
fn formed(args: &GenerateArgs, path: &Path) -> Result<String> {
    let format = path.join(PROMPT_FORMAT);
    if args.raw || !format.exists() {
        return Ok(args.prompt.clone());
    }
    Ok(files::read(&format)?.replace(QUESTION, args.prompt.trim()))
}

/// Turns tokens into text as they come: a character may take several tokens.
struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    printed: usize,
    open_line: bool,
}

impl<'a> TextStream<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: Vec::new(), printed: 0, open_line: true }
    }

    /// Prints the text that this token completes; false once nobody reads it.
    fn push(&mut self, token: u32) -> bool {
        self.tokens.push(token);
        let Ok(text) = self.tokenizer.decode(&self.tokens) else { return true };
        if text.ends_with(char::REPLACEMENT_CHARACTER) || text.len() <= self.printed {
            return true;
        }
        let read = print(text.get(self.printed..).unwrap_or_default());
        self.printed = text.len();
        self.open_line = !text.ends_with('\n');
        read
    }

    /// Breaks the line that the text left open.
    fn end_line(&self) {
        if self.open_line {
            say("");
        }
    }
}
