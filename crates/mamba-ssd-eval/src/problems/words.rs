//! The people and things that problems are about.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A name and its pronoun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Person {
    pub name: &'static str,
    pub pronoun: &'static str,
}

const fn she(name: &'static str) -> Person {
    Person { name, pronoun: "She" }
}

const fn he(name: &'static str) -> Person {
    Person { name, pronoun: "He" }
}

const PEOPLE: [Person; 14] = [
    she("Mia"),
    he("Tom"),
    she("Anna"),
    he("Ben"),
    she("Lucy"),
    he("Sam"),
    she("Emma"),
    he("Jack"),
    she("Nora"),
    he("Leo"),
    she("Ruth"),
    he("Max"),
    she("Kate"),
    he("Paul"),
];

const THINGS: [&str; 14] = [
    "shells", "apples", "stamps", "coins", "books", "cards", "pens", "marbles", "stones", "beads", "cups",
    "pears", "nuts", "toys",
];

/// Three different people and two different things: who and what the slots `A`, `B`, `C`, `x` and `y`
/// of a template stand for.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub people: [Person; 3],
    pub things: [&'static str; 2],
}

impl Cast {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self { people: distinct(&PEOPLE, rng), things: distinct(&THINGS, rng) }
    }
}

/// `N` different items, in random order.
fn distinct<T: Copy, const N: usize>(items: &[T], rng: &mut ChaCha8Rng) -> [T; N] {
    let mut left = items.to_vec();
    std::array::from_fn(|_| left.swap_remove(rng.random_range(0..left.len())))
}
