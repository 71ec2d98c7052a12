//! Which rows come when: an order that follows from (seed, epoch), and a place in it.

use std::ops::Range;

use burn::tensor::Device;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Dataset;
use super::batch::{Batch, Counts, Row};

/// A place in the data: everything a resumed run needs to see the same batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// How often the data has been used up.
    pub epoch: u64,
    /// Rows already taken from this epoch.
    pub position: usize,
}

/// Rows of one length, in the order of a seed.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    data: &'a Dataset,
    seq_len: usize,
    seed: u64,
    cursor: Cursor,
    epoch: Epoch,
    aligned: bool,
}

impl<'a> Loader<'a> {
    /// Rows of `seq_len` tokens of `data`, from `cursor` on.
    ///
    /// # Panics
    ///
    /// If `seq_len` is 0 or `data` is empty.
    pub fn new(data: &'a Dataset, seq_len: usize, seed: u64, cursor: Cursor) -> Self {
        assert!(seq_len > 0, "rows of 0 tokens");
        let epoch = Epoch::new(data.len(), seq_len, seed, cursor.epoch, false);
        Self { data, seq_len, seed, cursor, epoch, aligned: false }
    }

    /// The same with rows that begin at multiples of their length in every epoch, so that they come again.
    pub fn aligned(mut self) -> Self {
        self.epoch = Epoch::new(self.data.len(), self.seq_len, self.seed, self.cursor.epoch, true);
        self.aligned = true;
        self
    }

    /// The place of the next row.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Rows in an epoch.
    pub fn rows_per_epoch(&self) -> usize {
        self.epoch.starts.len()
    }

    /// The next `rows` rows as tensors on `device`; epochs follow one another without a gap.
    pub fn next_batch(&mut self, rows: usize, device: &Device) -> Batch {
        self.next_part(rows, 0..rows, device).0
    }

    /// A part of the next `rows` rows as tensors on `device`, and what there is in all of them: what one of several devices
    /// computes of a batch.
    ///
    /// # Panics
    ///
    /// If the part has rows beyond these.
    pub fn next_part(&mut self, rows: usize, part: Range<usize>, device: &Device) -> (Batch, Counts) {
        let rows: Vec<Row> = (0..rows).map(|_| self.next_row()).collect();
        (Batch::from_rows(&rows[part], device), Counts::of(&rows))
    }

    pub(super) fn next_row(&mut self) -> Row {
        if self.cursor.position >= self.epoch.starts.len() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
            self.epoch =
                Epoch::new(self.data.len(), self.seq_len, self.seed, self.cursor.epoch, self.aligned);
        }
        let start = self.epoch.starts[self.cursor.position];
        self.cursor.position += 1;
        Row::cut(self.data, start, self.seq_len)
    }
}

/// The rows of one epoch: stream positions, shuffled.
#[derive(Clone, Debug)]
struct Epoch {
    starts: Vec<usize>,
}

impl Epoch {
    /// Cuts a stream of `len` tokens, seen as a circle, from a random offset on. A stream shorter
    /// than a row is one padded row; otherwise an epoch leaves out less than a row, each time
    /// elsewhere. An aligned one is cut from the start.
    fn new(len: usize, seq_len: usize, seed: u64, epoch: u64, aligned: bool) -> Self {
        if len < seq_len {
            return Self { starts: vec![0] };
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        let offset = rng.random_range(0..len as u64) as usize;
        let offset = if aligned { 0 } else { offset };
        let mut starts: Vec<usize> = (0..len / seq_len).map(|row| (offset + row * seq_len) % len).collect();
        starts.shuffle(&mut rng);
        Self { starts }
    }
}
