//! The path of the parameter that a traversal has reached.

use super::layout::Layout;
use super::names::Names;

/// Names from the root of a model to a parameter, each with the type of what holds it.
#[derive(Debug, Default)]
pub(super) struct ModulePath {
    entries: Vec<(String, String)>,
}

impl ModulePath {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.entries.push((name.to_string(), container.to_string()));
    }

    pub(super) fn exit(&mut self) {
        self.entries.pop();
    }

    /// The key of the parameter in a file. The variant of [`Model`](crate::Model) is no part of it.
    pub(super) fn key(&self, names: &Names) -> String {
        let inside = self.entries.iter().filter(|(_, container)| container != "Enum:Model");
        let path: Vec<&str> = inside.map(|(name, _)| name.as_str()).collect();
        names.key(&path)
    }

    /// How the parameter lies in a file.
    pub(super) fn layout(&self) -> Layout {
        let (name, container) = self.last();
        Layout::of(container, name)
    }

    /// The name of the parameter, and the type of the module that holds it.
    pub(super) fn last(&self) -> (&str, &str) {
        let (name, container) = self.entries.last().expect("a parameter is a field of a module");
        (name, container)
    }
}
