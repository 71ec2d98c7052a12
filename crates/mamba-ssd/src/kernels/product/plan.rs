//! Tiles of a product, and which to take for a shape.

/// Numbers of bf16 that the copy engine moves at least: 16 bytes.
pub(super) const ALIGNMENT: usize = 8;

/// Numbers of a row of shared memory, 128 bytes: the depth of a stage, and the width of a box.
pub(super) const LINE: usize = 64;

/// Bytes of a box: 64 lines.
pub(super) const BOX: usize = 64 * 2 * LINE;

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// The depth runs along a row: `A [m k]`, `B [n k]`.
    Depth,
    /// The depth runs down the rows: `A [k m]`, `B [k n]`.
    Outer,
}

/// A tile of the result, and how it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows: 64 for each multiplying warpgroup.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Stages of A and B in flight.
    pub stages: usize,
    /// Columns that are staged in shared memory at once on the way out.
    pub staged: usize,
    /// Numbers computed in a given time, relative to the first tile: measured at 8192³ on an H100.
    percent: usize,
}

/// The tiles to choose from.
const TILES: [Tile; 5] = [
    Tile { m: 128, n: 256, stages: 3, staged: 256, percent: 100 },
    Tile { m: 128, n: 192, stages: 4, staged: 192, percent: 96 },
    Tile { m: 128, n: 128, stages: 6, staged: 128, percent: 80 },
    Tile { m: 64, n: 128, stages: 8, staged: 128, percent: 60 },
    Tile { m: 64, n: 64, stages: 8, staged: 64, percent: 48 },
];

impl Tile {
    /// The tile with the least work in the longest of the multiprocessors' queues.
    pub fn choose(m: usize, n: usize, multiprocessors: usize) -> Self {
        Self::cheapest(&TILES, m, n, multiprocessors)
    }

    /// The tile for a gated product of `n` columns: half of its columns are the gate's, in whole boxes.
    pub fn choose_gated(m: usize, n: usize, multiprocessors: usize) -> Self {
        let halves: Vec<Self> = TILES.into_iter().filter(|tile| tile.n.is_multiple_of(2 * LINE)).collect();
        Self::cheapest(&halves, m, 2 * n, multiprocessors)
    }

    fn cheapest(tiles: &[Self], m: usize, n: usize, multiprocessors: usize) -> Self {
        let cost =
            |tile: &Self| tile.count(m, n).div_ceil(multiprocessors) * tile.m * tile.n * 100 / tile.percent;
        let mut best = tiles[0];
        for tile in &tiles[1..] {
            if cost(tile) < cost(&best) {
                best = *tile;
            }
        }
        best
    }

    /// Tiles of a result `[m n]`.
    pub fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// Warpgroups that multiply.
    pub fn warpgroups(&self) -> usize {
        self.m / 64
    }

    /// Threads of a cube: a warpgroup more, which copies.
    pub fn threads(&self) -> usize {
        128 * (self.warpgroups() + 1)
    }

    /// Bytes of one stage.
    pub fn stage_bytes(&self) -> usize {
        (self.m + self.n) * 2 * LINE
    }

    /// Bytes of all stages.
    pub fn ring_bytes(&self) -> usize {
        self.stages * self.stage_bytes()
    }

    /// Bytes that a warpgroup stages of the result.
    pub fn staged_bytes(&self) -> usize {
        self.staged / LINE * BOX
    }

    /// Where the barriers lie, behind stages and staged results.
    pub fn barriers_at(&self) -> usize {
        self.ring_bytes() + self.warpgroups() * self.staged_bytes()
    }

    /// Shared memory, with what it may take to begin at a multiple of 1024 bytes.
    pub fn shared_bytes(&self) -> usize {
        self.barriers_at() + 16 * self.stages + 1024
    }
}

/// How a product is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub tile: Tile,
    /// Slices of the depth, whose sums are added up afterwards.
    pub slices: usize,
    pub cubes: usize,
}

/// Stages of depth below which a slice is not worth its sums.
const SHORTEST_SLICE: usize = 4;

/// Depth for each row and slice: sums move eight bytes where the depth moves two, and may cost half as much.
const DEPTH_PER_ROW: usize = 8;

impl Plan {
    /// Of `[m k]` by two of `[k n]`, one of which gates the other.
    pub fn gated([m, n, _]: [usize; 3], multiprocessors: usize) -> Self {
        let tile = Tile::choose_gated(m, n, multiprocessors);
        Self {
            tile,
            slices: 1,
            cubes: tile.count(m, 2 * n.next_multiple_of(tile.n / 2)).min(multiprocessors),
        }
    }

    /// Of `[m k]` by `[k n]`. Where tiles are too few for the device, the depth is cut into slices.
    pub fn new([m, n, k]: [usize; 3], multiprocessors: usize) -> Self {
        let tile = Tile::choose(m, n, multiprocessors);
        let (tiles, steps) = (tile.count(m, n), k.div_ceil(LINE));
        let wanted =
            (multiprocessors / tiles).min(steps / SHORTEST_SLICE).min(k / (DEPTH_PER_ROW * m)).max(1);
        let slices = steps.div_ceil(steps.div_ceil(wanted)); // none is empty
        Self { tile, slices, cubes: (tiles * slices).min(multiprocessors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_a_multiprocessor() {
        for tile in TILES {
            assert!(tile.shared_bytes() <= 227 * 1024, "{tile:?} takes {} bytes", tile.shared_bytes());
            assert!(tile.threads() <= 1024 && tile.n.is_multiple_of(tile.staged));
        }
    }

    #[test]
    fn wide_results_take_wide_tiles_and_short_ones_narrow_tiles() {
        let choice = |m, n| {
            let tile = Tile::choose(m, n, 132);
            (tile.m, tile.n)
        };
        assert_eq!(choice(8192, 8192), (128, 256));
        assert_eq!(choice(32768, 576), (128, 192));
        assert_eq!(choice(64, 8192), (64, 64));
        assert_eq!(choice(8, 8), (64, 64));
    }

    #[test]
    fn a_gated_product_of_one_row_is_one_tile_for_each_multiprocessor() {
        let plan = Plan::gated([1, 8192, 2048], 132);
        assert_eq!((plan.tile.m, plan.tile.n, plan.cubes), (64, 128, 128));
    }

    #[test]
    fn few_tiles_share_the_depth_and_many_do_not() {
        let slices = |m, n, k| Plan::new([m, n, k], 132).slices;
        assert_eq!(slices(1, 2048, 2048), 4);
        assert_eq!(slices(64, 2048, 8192), 4);
        assert_eq!(slices(64, 8192, 2048), 1);
        assert_eq!(slices(64, 576, 576), 1);
        assert_eq!(slices(16, 576, 576), 2);
        assert_eq!(slices(512, 8192, 2048), 1);
        assert_eq!(slices(16384, 2048, 8192), 1);
        assert_eq!(slices(1, 64, 64), 1);
    }

    #[test]
    fn no_slice_is_empty() {
        for (n, k) in [(64, 1000), (64, 8192), (576, 1536), (128, 640), (2048, 4096)] {
            let Plan { slices, .. } = Plan::new([1, n, k], 132);
            let steps = k.div_ceil(LINE);
            assert!((slices - 1) * steps.div_ceil(slices) < steps, "{n} by {k} in {slices}");
        }
    }
}
