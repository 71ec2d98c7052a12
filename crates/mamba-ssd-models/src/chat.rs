//! Conversations as the text that a model was trained on: the Jinja template of its checkpoint.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The template of a checkpoint.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// What is wrong with it, on one line.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build(); // as transformers
        environment.set_syntax(syntax.map_err(|error| one_line(&error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source.to_string()).map_err(|error| one_line(&error))?;
        Ok(Self { environment })
    }

    /// The text of a conversation that the model is to continue. `bos` and `eos` are the texts of the
    /// tokens that begin and end one.
    ///
    /// # Errors
    ///
    /// If the template refuses the conversation, on one line.
    pub fn render(&self, messages: &[Message], bos: &str, eos: &str) -> Result<String, String> {
        let message = |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let variables = context! { messages => messages, add_generation_prompt => true, bos_token => bos, eos_token => eos };
        let template = self.environment.get_template(NAME).map_err(|error| one_line(&error))?;
        template.render(variables).map_err(|error| one_line(&error))
    }
}

fn one_line(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let reason: Vec<&str> = reason.split_whitespace().collect();
    let reason = reason.join(" ");
    let place = error.line().map_or(String::new(), |line| format!(" (line {line} of the chat template)"));
    format!("{reason}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    /// The shape of ChatML templates: a default system prompt, turns between marks, the mark of the answer.
    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\\n' + message['content'].strip() + '<|im_end|>' + '\\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_conversation_becomes_the_text_of_its_template() {
        let template = ChatTemplate::parse(CHATML).expect("a template");
        let text = template.render(&[said("user", " Hi ")], "", "").expect("a text");
        assert_eq!(
            text,
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        let text =
            template.render(&[said("system", "Be brief"), said("user", "Hi")], "", "").expect("a text");
        assert!(text.starts_with("<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user"));
    }

    #[test]
    fn what_a_template_refuses_is_said_on_one_line() {
        let source = "{{ bos_token }}\n{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}";
        let template = ChatTemplate::parse(source).expect("a template");
        let error = template.render(&[said("system", "x")], "<s>", "").expect_err("refused");
        assert_eq!(error, "no system role (line 2 of the chat template)");
        assert!(template.render(&[said("user", "x")], "<s>", "").expect("a text").starts_with("<s>"));
        let error = ChatTemplate::parse("{% for %}").expect_err("no loop");
        assert!(!error.contains('\n') && error.contains("line 1"), "{error}");
    }
}
