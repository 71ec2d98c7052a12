//! Reading a JSON configuration field by field, with errors that name the field.

use serde_json::{Map, Value};

/// A JSON object and the path to it.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

/// No axis of a published model is longer.
pub(crate) const LARGEST: usize = 1 << 24;
/// No published model is deeper.
const MOST_LAYERS: usize = 4096;

/// The product of two sizes that is an axis itself.
pub(crate) fn axis(what: &str, a: usize, b: usize) -> Result<usize> {
    match a.checked_mul(b) {
        Some(size) if size <= LARGEST => Ok(size),
        _ => Err(format!("{what} is {a} times {b}, expected at most {LARGEST}")),
    }
}

/// What was found and what was expected, without the file's name.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Parses JSON as Python writes it: bare `Infinity`, `-Infinity` and `NaN` are understood.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let describe = |error| format!("not JSON: {error}; expected the config.json of a model");
    serde_json::from_str(&quote_non_numbers(text)).map_err(describe)
}

/// Turns the words that JSON lacks into what transformers 5 writes, `{"__float__": "Infinity"}`.
fn quote_non_numbers(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(character) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let length = match (in_string, word) {
            (false, Some(word)) => {
                output.push_str(&format!("{{\"__float__\": \"{word}\"}}"));
                word.len()
            }
            _ => {
                let escaped = in_string && character == '\\';
                in_string ^= character == '"';
                let length = rest.chars().take(1 + usize::from(escaped)).map(char::len_utf8).sum();
                output.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[length..];
    }
    output
}

/// A number, or one of the words that JSON lacks.
fn number(value: &Value) -> Option<f64> {
    let word = value.get("__float__").and_then(Value::as_str);
    match word {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        Some(_) => Some(f64::NAN),
        None => value.as_f64(),
    }
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object.
    pub(crate) fn new(value: &'a Value) -> Result<Self> {
        let object = value.as_object().ok_or("expected a JSON object at the top level")?;
        Ok(Self { object, path: String::new() })
    }

    /// The value of a field that is present and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Names and values, in the order of the file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.object.iter()
    }

    /// The fields of a nested object.
    pub(crate) fn object(&self, name: &str) -> Result<Fields<'a>> {
        let expected = "an object";
        let value = self.required(name, expected)?;
        let object = value.as_object().ok_or_else(|| self.wrong(name, value, expected))?;
        Ok(Fields { object, path: self.path_to(name) })
    }

    /// The fields of a nested object, if it is there.
    pub(crate) fn opt_object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        self.get(name).map(|_| self.object(name)).transpose()
    }

    pub(crate) fn usize(&self, name: &str) -> Result<usize> {
        let expected = "a whole number";
        let value = self.required(name, expected)?;
        let number = value.as_u64().ok_or_else(|| self.wrong(name, value, expected))?;
        Ok(number as usize)
    }

    pub(crate) fn opt_usize(&self, name: &str) -> Result<Option<usize>> {
        self.get(name).map(|_| self.usize(name)).transpose()
    }

    pub(crate) fn usize_or(&self, name: &str, default: usize) -> Result<usize> {
        self.get(name).map_or(Ok(default), |_| self.usize(name))
    }

    /// A whole number that sizes something: not 0, and at most [`LARGEST`].
    pub(crate) fn size(&self, name: &str) -> Result<usize> {
        self.size_within(name, LARGEST)
    }

    /// A number of layers: not 0, and at most [`MOST_LAYERS`].
    pub(crate) fn layers(&self, name: &str) -> Result<usize> {
        self.size_within(name, MOST_LAYERS)
    }

    fn size_within(&self, name: &str, most: usize) -> Result<usize> {
        match self.usize(name)? {
            0 => Err(format!("`{}` is 0, expected a positive whole number", self.path_to(name))),
            size if size > most => {
                Err(format!("`{}` is {size}, expected at most {most}", self.path_to(name)))
            }
            size => Ok(size),
        }
    }

    pub(crate) fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        self.get(name).map_or(Ok(default), |_| self.size(name))
    }

    pub(crate) fn opt_size(&self, name: &str) -> Result<Option<usize>> {
        self.get(name).map(|_| self.size(name)).transpose()
    }

    /// Layers, each of which is one of `n_layers`.
    pub(crate) fn layer_indices(&self, name: &str, n_layers: usize) -> Result<Vec<usize>> {
        let layers = self.usizes(name)?;
        match layers.iter().find(|&&layer| layer >= n_layers) {
            None => Ok(layers),
            Some(layer) => Err(format!(
                "`{}` names layer {layer}, but there are only {n_layers} (0 to {})",
                self.path_to(name),
                n_layers - 1
            )),
        }
    }

    pub(crate) fn f64(&self, name: &str) -> Result<f64> {
        let expected = "a number";
        let value = self.required(name, expected)?;
        number(value).ok_or_else(|| self.wrong(name, value, expected))
    }

    pub(crate) fn f64_or(&self, name: &str, default: f64) -> Result<f64> {
        self.get(name).map_or(Ok(default), |_| self.f64(name))
    }

    pub(crate) fn bool_or(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    pub(crate) fn str_or(&self, name: &str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.wrong(name, value, "a string"))
    }

    /// Whole numbers: one, a list of them, or none.
    pub(crate) fn usizes(&self, name: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let one = std::slice::from_ref(value);
        let items = value.as_array().map_or(one, Vec::as_slice);
        let wrong = || self.wrong(name, value, "whole numbers");
        items.iter().map(|item| item.as_u64().map(|item| item as usize).ok_or_else(wrong)).collect()
    }

    /// Numbers, or none.
    pub(crate) fn f64s(&self, name: &str) -> Result<Vec<f64>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let wrong = || self.wrong(name, value, "a list of numbers");
        let items = value.as_array().ok_or_else(wrong)?;
        items.iter().map(|item| number(item).ok_or_else(wrong)).collect()
    }

    /// An error unless the field is absent or equal to the only value that is covered.
    pub(crate) fn only_str(&self, name: &str, covered: &'a str) -> Result<()> {
        match self.str_or(name, covered)? {
            found if found == covered => Ok(()),
            found => Err(format!("`{}` is \"{found}\", only \"{covered}\" is covered", self.path_to(name))),
        }
    }

    /// An error unless the field is absent or equal to the only value that is covered.
    pub(crate) fn only_bool(&self, name: &str, covered: bool) -> Result<()> {
        match self.bool_or(name, covered)? {
            found if found == covered => Ok(()),
            found => Err(format!("`{}` is {found}, only {covered} is covered", self.path_to(name))),
        }
    }

    fn required(&self, name: &str, expected: &str) -> Result<&'a Value> {
        self.get(name).ok_or_else(|| format!("`{}` is missing, expected {expected}", self.path_to(name)))
    }

    fn wrong(&self, name: &str, found: &Value, expected: &str) -> String {
        format!("`{}` is {found}, expected {expected}", self.path_to(name))
    }

    /// The full name of a field, for messages.
    pub(crate) fn path_to(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_s_infinities_are_understood() {
        let text = r#"{"limit": [0.0, Infinity], "low": -Infinity, "name": "Infinity \" NaN", "new": {"__float__": "Infinity"}}"#;
        let value = parse(text).expect("tolerated");
        let fields = Fields::new(&value).expect("an object");
        assert_eq!(fields.f64s("limit"), Ok(vec![0.0, f64::INFINITY]));
        assert_eq!(fields.f64("low"), Ok(f64::NEG_INFINITY));
        assert_eq!(fields.f64("new"), Ok(f64::INFINITY));
        assert_eq!(fields.str_or("name", ""), Ok("Infinity \" NaN"));
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let value = parse(r#"{"mlp_cfg": {"intermediate_size": "big", "n": 0}}"#).expect("JSON");
        let fields = Fields::new(&value).and_then(|fields| fields.object("mlp_cfg")).expect("an object");
        let error = fields.size("intermediate_size").expect_err("a string");
        assert_eq!(error, "`mlp_cfg.intermediate_size` is \"big\", expected a whole number");
        assert_eq!(fields.size("n").expect_err("zero"), "`mlp_cfg.n` is 0, expected a positive whole number");
        assert_eq!(fields.usize("m").expect_err("absent"), "`mlp_cfg.m` is missing, expected a whole number");
    }
}
