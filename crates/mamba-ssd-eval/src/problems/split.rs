//! Which problems a model may train on.
//!
//! Membership is a property of the problem, not of the seed: two hashes of what was drawn decide it.

use serde::{Deserialize, Serialize};

use super::words::Cast;

/// Problems to learn from, and problems to be examined on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To learn from.
    Train,
    /// Never learnt from.
    HeldOut,
}

/// One number tuple in so many belongs to the held-out split.
const NUMBERS_HELD_OUT: u64 = 8;

/// One (person, object) pair of a template in so many never occurs in the training split.
const PAIRS_HELD_OUT: u64 = 16;

impl Split {
    /// Whether a problem of these numbers may be in this split.
    pub fn admits_numbers(self, template: usize, numbers: &[i64]) -> bool {
        let key = numbers.iter().flat_map(|number| number.to_le_bytes());
        let held_out = hash(template, key).is_multiple_of(NUMBERS_HELD_OUT);
        held_out == (self == Self::HeldOut)
    }

    /// Whether a problem of this cast may be in this split.
    pub fn admits_cast(self, template: usize, cast: &Cast) -> bool {
        let person = cast.people[0].name.bytes();
        let reserved = hash(template, person.chain(cast.things[0].bytes())).is_multiple_of(PAIRS_HELD_OUT);
        self == Self::HeldOut || !reserved
    }
}

/// 64-bit FNV-1a over the template and a key, finished by the mixer of splitmix64.
fn hash(template: usize, key: impl Iterator<Item = u8>) -> u64 {
    let bytes = (template as u64).to_le_bytes().into_iter().chain(key);
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn an_eighth_of_the_tuples_is_held_out_and_no_tuple_is_in_both_splits() {
        let tuples = (2..100).flat_map(|a| (2..100).map(move |b| [a, b]));
        let count = |split: Split| tuples.clone().filter(|tuple| split.admits_numbers(3, tuple)).count();
        let (train, held_out) = (count(Split::Train), count(Split::HeldOut));
        assert_eq!(train + held_out, 98 * 98);
        assert!((1000..1400).contains(&held_out), "{held_out} of 9604 held out");
    }

    #[test]
    fn some_pairs_are_reserved_for_the_held_out_split() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let casts: Vec<Cast> = (0..4000).map(|_| Cast::draw(&mut rng)).collect();
        let admitted = casts.iter().filter(|cast| Split::Train.admits_cast(1, cast)).count();
        assert!((3400..3950).contains(&admitted), "{admitted} of 4000 in the training split");
        assert!(casts.iter().all(|cast| Split::HeldOut.admits_cast(1, cast)));
    }
}
