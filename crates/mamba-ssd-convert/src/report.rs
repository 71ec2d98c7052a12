//! What became of every parameter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happened to a group of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The student's are the teacher's.
    Copied,
    /// The student's are the teacher's, some of them several times.
    Repeated,
    /// The student's are new.
    Initialised,
    /// The teacher's have no place in the student.
    Dropped,
}

/// A group of parameters and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What happened.
    pub action: Action,
    /// The tensor, or the rows of it.
    pub tensor: String,
    /// How many parameters.
    pub params: usize,
    /// From where, or with which values.
    pub note: String,
}

/// What became of one layer's mixer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Index of the layer.
    pub layer: usize,
    /// Every group of parameters of student and teacher.
    pub entries: Vec<Entry>,
}

impl LayerReport {
    pub(crate) fn add(&mut self, action: Action, tensor: &str, params: usize, note: impl Into<String>) {
        let (tensor, note) = (tensor.to_string(), note.into());
        self.entries.push(Entry { action, tensor, params, note });
    }

    /// Parameters that an action befell.
    pub fn count(&self, action: Action) -> usize {
        self.entries.iter().filter(|entry| entry.action == action).map(|entry| entry.params).sum()
    }
}

/// What became of a model. Its [`Display`](fmt::Display) is a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversionReport {
    /// Layers of the model.
    pub n_layers: usize,
    /// The layers that changed.
    pub layers: Vec<LayerReport>,
    /// Parameters outside the changed mixers, which the student takes over as they are.
    pub copied_outside: usize,
    /// Parameters of the teacher.
    pub teacher_params: usize,
    /// Parameters of the student.
    pub student_params: usize,
}

impl ConversionReport {
    /// Parameters that an action befell, over the whole model.
    pub fn count(&self, action: Action) -> usize {
        let outside = if action == Action::Copied { self.copied_outside } else { 0 };
        outside + self.layers.iter().map(|layer| layer.count(action)).sum::<usize>()
    }
}

const ACTIONS: [Action; 4] = [Action::Copied, Action::Repeated, Action::Initialised, Action::Dropped];

impl fmt::Display for ConversionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16}{:>15}{:>15}{:>15}{:>15}", "", "copied", "repeated", "initialised", "dropped")?;
        row(f, "outside mixers", [self.copied_outside, 0, 0, 0])?;
        for layer in &self.layers {
            row(f, &format!("layer {}", layer.layer), ACTIONS.map(|action| layer.count(action)))?;
        }
        row(f, "total", ACTIONS.map(|action| self.count(action)))?;
        writeln!(f, "{} of {} mixers change", self.layers.len(), self.n_layers)?;
        let (teacher, student) = (grouped(self.teacher_params), grouped(self.student_params));
        writeln!(f, "teacher {teacher} parameters, student {student}")?;
        match self.layers.first() {
            Some(layer) => details(f, layer),
            None => Ok(()),
        }
    }
}

/// The entries of one layer, which stands for all: they differ in number only.
fn details(f: &mut fmt::Formatter<'_>, layer: &LayerReport) -> fmt::Result {
    writeln!(f, "\nin layer {}:", layer.layer)?;
    for entry in &layer.entries {
        let action = format!("{:?}", entry.action).to_lowercase();
        writeln!(f, "  {action:<12}{:>12}  {:<16} {}", grouped(entry.params), entry.tensor, entry.note)?;
    }
    Ok(())
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, counts: [usize; 4]) -> fmt::Result {
    let [copied, repeated, initialised, dropped] = counts.map(grouped);
    writeln!(f, "{name:<16}{copied:>15}{repeated:>15}{initialised:>15}{dropped:>15}")
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            ["0", "12", "1,234", "1,405,159,936"],
            [0, 12, 1234, 1405159936].map(grouped).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn the_table_adds_up() {
        let mut layer = LayerReport { layer: 1, ..Default::default() };
        layer.add(Action::Initialised, "in_proj", 700, "");
        layer.add(Action::Dropped, "q_proj", 1200, "");
        let report =
            ConversionReport { n_layers: 2, layers: vec![layer], copied_outside: 5000, ..Default::default() };
        assert_eq!(report.count(Action::Copied), 5000);
        assert_eq!(report.count(Action::Dropped), 1200);
        let total = report.to_string();
        let total = total.lines().find(|line| line.starts_with("total")).expect("a total");
        assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["total", "5,000", "0", "700", "1,200"]);
    }
}
