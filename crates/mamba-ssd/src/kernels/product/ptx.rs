//! The text of the Hopper kernel: `hopper.ptx` with its sizes and unrolled parts filled in.

use std::fmt::Write;

use super::plan::{BOX, LINE, Major, Tile};

/// Rows of tiles that are walked through together, for the sake of the cache.
const BAND: usize = 8;

/// One kernel: a tile, and how A and B lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub tile: Tile,
    pub a: Major,
    pub b: Major,
    /// Whether sums of slices of the depth are written in f32, instead of C.
    pub sliced: bool,
    /// Whether there are two right factors, as `a b` in the Outer form, and C is `silu(a gate) ∘ (a b)`.
    pub gated: bool,
}

impl Kernel {
    /// The kernel's text. It expects registers `smem`, `map_a`, `map_b`, `map_c`, `map_gate`, `parts`, `m`,
    /// `n`, `k` and `slices`.
    pub fn ptx(&self) -> String {
        let tile = self.tile;
        let cooperative = tile.warpgroups() == 2;
        let registers = |text: &str| if cooperative { text.to_string() } else { String::new() };
        let parts = [
            ("M", self.tile.m.to_string()),
            ("M-1", (self.tile.m - 1).to_string()),
            ("N", self.columns().to_string()),
            ("N-1", (self.columns() - 1).to_string()),
            ("REGS", (self.tile.n / 2).to_string()),
            ("BAND", BAND.to_string()),
            ("GROUPS", self.tile.warpgroups().to_string()),
            ("STAGE", self.tile.stage_bytes().to_string()),
            ("RING", self.tile.ring_bytes().to_string()),
            ("STAGED", self.tile.staged_bytes().to_string()),
            ("BARRIERS", self.tile.barriers_at().to_string()),
            ("FEWER_REGISTERS", registers("setmaxnreg.dec.sync.aligned.u32 40;")),
            ("MORE_REGISTERS", registers("setmaxnreg.inc.sync.aligned.u32 232;")),
            ("LAYOUT_A", layout(self.a)),
            ("LAYOUT_B", layout(self.b)),
            ("INIT", self.init()),
            ("LOCATE", self.locate()),
            ("SLOT", self.slot()),
            ("NEXT_SLOT", self.next_slot()),
            ("LOADS", self.loads()),
            ("PRODUCTS", self.products()),
            ("STORES", if self.sliced { self.store_parts() } else { self.stores() }),
        ];
        let code = include_str!("hopper.ptx").lines().filter(|line| !line.starts_with("//"));
        let mut text = code.collect::<Vec<_>>().join("\n");
        for (name, part) in parts {
            text = text.replace(&format!("@{name}@"), &part);
        }
        text
    }

    /// Columns of C in a tile.
    fn columns(&self) -> usize {
        if self.gated { self.tile.n / 2 } else { self.tile.n }
    }

    /// Barriers: a stage is full when its bytes are there, and empty when every warpgroup is done.
    fn init(&self) -> String {
        let mut text = String::new();
        for stage in 0..self.tile.stages {
            let (full, empty) = (8 * stage, 8 * (self.tile.stages + stage));
            let groups = self.tile.warpgroups();
            line(&mut text, format!("mbarrier.init.shared::cta.b64 [barriers+{full}], 1;"));
            line(&mut text, format!("mbarrier.init.shared::cta.b64 [barriers+{empty}], {groups};"));
        }
        text
    }

    /// The slice of the depth, and the first row and column of the current tile: slice after slice, band after
    /// band, column by column in a band.
    fn locate(&self) -> String {
        let (m, n) = (self.tile.m, self.columns());
        format!(
            "div.u32 slice, tile, area;\nrem.u32 place, tile, area;\nmul.lo.u32 start, slice, per_slice;\n\
             add.u32 end, start, per_slice;\nmin.u32 end, end, steps;\n\
             div.u32 t0, place, width;\nmul.lo.u32 first, t0, {BAND};\nsub.u32 rows, tiles_m, first;\n\
             min.u32 rows, rows, {BAND};\nrem.u32 t1, place, width;\nrem.u32 row0, t1, rows;\n\
             add.u32 row0, row0, first;\nmul.lo.u32 row0, row0, {m};\ndiv.u32 col0, t1, rows;\n\
             mul.lo.u32 col0, col0, {n};"
        )
    }

    /// Addresses of the current stage and its barriers.
    fn slot(&self) -> String {
        let (empty, stage, a) = (8 * self.tile.stages, self.tile.stage_bytes(), self.tile.m * 2 * LINE);
        format!(
            "shl.b32 t0, slot, 3;\nadd.u32 full, barriers, t0;\nadd.u32 empty, full, {empty};\n\
             mul.lo.u32 at_a, slot, {stage};\nadd.u32 at_a, at_a, smem;\nadd.u32 at_b, at_a, {a};"
        )
    }

    fn next_slot(&self) -> String {
        let stages = self.tile.stages;
        format!(
            "add.u32 slot, slot, 1;\nsetp.eq.u32 q, slot, {stages};\n@q mov.u32 slot, 0;\n\
             @q xor.b32 phase, phase, 1;"
        )
    }

    /// Copies of one stage; `t2` is its first depth.
    fn loads(&self) -> String {
        let mut text = String::new();
        operand(&mut text, ("at_a", "map_a", "row0"), self.a, self.tile.m);
        if self.gated {
            operand(&mut text, ("at_b", "map_gate", "col0"), self.b, self.columns());
            line(&mut text, format!("add.u32 at_b, at_b, {};", self.columns() / LINE * BOX));
        }
        operand(&mut text, ("at_b", "map_b", "col0"), self.b, self.columns());
        text
    }

    /// Four products, 16 deep each; the first of a tile overwrites the sums.
    fn products(&self) -> String {
        let mut text = String::new();
        let sums: Vec<String> = (0..self.tile.n / 2).map(|i| format!("d{i}")).collect();
        let (sums, n) = (sums.join(", "), self.tile.n);
        let transposed = [self.a, self.b].map(|major| usize::from(major == Major::Outer));
        for part in 0..LINE / 16 {
            if part > 0 {
                line(&mut text, format!("add.u64 desc_a, desc_a, {};", sixteen_deeper(self.a)));
                line(&mut text, format!("add.u64 desc_b, desc_b, {};", sixteen_deeper(self.b)));
            }
            let keep = if part == 0 { "p" } else { "q" };
            let [a, b] = transposed;
            line(
                &mut text,
                format!(
                    "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{sums}}}, desc_a, desc_b, \
                     {keep}, 1, 1, {a}, {b};"
                ),
            );
        }
        text
    }

    /// A warpgroup's 64 rows of C, `staged` columns at a time.
    fn stores(&self) -> String {
        let mut text = String::new();
        if self.gated {
            self.gate(&mut text);
        }
        let staged = self.tile.staged.min(self.columns());
        for pass in 0..self.columns() / staged {
            line(&mut text, "@leader cp.async.bulk.wait_group.read 0;\nbar.sync barrier, 128;".into());
            for pair in 0..staged / 16 {
                self.stage_sixteen_columns(&mut text, pass * staged / 16 + pair, pair);
            }
            line(&mut text, "fence.proxy.async.shared::cta;\nbar.sync barrier, 128;".into());
            line(&mut text, format!("@!leader bra STORED_{pass};"));
            for part in 0..staged / 64 {
                let column = pass * staged + 64 * part;
                line(&mut text, format!("add.u32 t0, col0, {column};\nadd.u32 t1, at_c, {};", part * BOX));
                line(
                    &mut text,
                    "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [map_c, {t0, row0}], [t1];".into(),
                );
            }
            line(&mut text, format!("cp.async.bulk.commit_group;\nSTORED_{pass}:"));
        }
        text
    }

    /// Sums of the gate's columns, the first half, become `silu(gate) value`: `gate value / (1 + 2^(-gate log₂ e))`.
    fn gate(&self, text: &mut String) {
        let half = self.tile.n / 4;
        for i in 0..half {
            let value = half + i;
            line(text, format!("mul.f32 power, d{i}, 0fBFB8AA3B;\nex2.approx.f32 power, power;"));
            line(text, "add.f32 power, power, 0f3F800000;\nrcp.approx.f32 power, power;".into());
            line(text, format!("mul.f32 d{i}, d{i}, d{value};\nmul.f32 d{i}, d{i}, power;"));
        }
    }

    /// A warpgroup's sums as they are, to `parts [slices m n]` in f32.
    fn store_parts(&self) -> String {
        let mut text = String::new();
        for code in [
            "and.b32 t0, tid, 31;\nshr.u32 t1, t0, 2;\nshl.b32 t2, warp, 4;\nadd.u32 t1, t1, t2;",
            "add.u32 t1, t1, row0;\nadd.u32 t2, t1, 8;\nsetp.lt.u32 upper, t1, m;\nsetp.lt.u32 lower, t2, m;",
            "and.b32 t0, t0, 3;\nshl.b32 t0, t0, 1;\nadd.u32 t0, t0, col0;",
            "mad.lo.u32 t1, slice, m, t1;\nmul.wide.u32 to_upper, t1, n;\ncvt.u64.u32 desc_a, t0;",
            "add.u64 to_upper, to_upper, desc_a;\nshl.b64 to_upper, to_upper, 2;\nadd.u64 to_upper, to_upper, parts;",
            "mul.wide.u32 to_lower, n, 32;\nadd.u64 to_lower, to_lower, to_upper;",
        ] {
            line(&mut text, code.into());
        }
        for eight in 0..self.tile.n / 8 {
            let (column, low) = (8 * eight, 4 * eight);
            line(&mut text, format!("add.u32 t1, t0, {column};\nsetp.lt.u32 p, t1, n;"));
            for (i, (half, to)) in [("upper", "to_upper"), ("lower", "to_lower")].into_iter().enumerate() {
                let (first, second) = (low + 2 * i, low + 2 * i + 1);
                line(&mut text, format!("and.pred q, p, {half};"));
                line(
                    &mut text,
                    format!("@q st.global.v2.f32 [{to}+{}], {{d{first}, d{second}}};", 4 * column),
                );
            }
        }
        text
    }

    /// Sums `8 pair .. 8 pair + 8` of every thread, as bf16, into their swizzled place.
    fn stage_sixteen_columns(&self, text: &mut String, pair: usize, place: usize) {
        let (part, chunk) = (place / 4, place % 4 * 2);
        line(text, format!("add.u32 t0, lane_chunk, {chunk};\nxor.b32 t0, t0, lane_row;"));
        line(text, "shl.b32 t0, t0, 4;\nadd.u32 t0, t0, lane;".into());
        for i in 0..4 {
            let low = 8 * pair + 2 * i;
            line(text, format!("cvt.rn.bf16x2.f32 x{i}, d{}, d{low};", low + 1));
        }
        let offset = part * BOX;
        line(text, format!("stmatrix.sync.aligned.m8n8.x4.shared.b16 [t0+{offset}], {{x0, x1, x2, x3}};"));
    }
}

fn line(text: &mut String, line: String) {
    let _ = writeln!(text, "{line}");
}

/// Copies `outer` rows or columns of an operand, 64 deep.
fn operand(text: &mut String, (to, map, first): (&str, &str, &str), major: Major, outer: usize) {
    let copy = |to: &str, from: String| {
        format!(
            "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [{to}], \
             [{map}, {{{from}}}], [full];"
        )
    };
    match major {
        Major::Depth => line(text, copy(to, format!("t2, {first}"))),
        Major::Outer => {
            for part in 0..outer / 64 {
                line(text, format!("add.u32 t0, {to}, {};\nadd.u32 t1, {first}, {};", part * BOX, part * 64));
                line(text, copy("t0", "t1, t2".to_string()));
            }
        }
    }
}

/// The constant bits of a shared-memory descriptor: 128-byte swizzle, and two strides in units of 16
/// bytes: between blocks of 64 along the outer axis, and between groups of eight rows.
fn layout(major: Major) -> String {
    let between_blocks = match major {
        Major::Depth => 1,
        Major::Outer => BOX / 16,
    };
    let between_groups = 8 * 2 * LINE / 16;
    format!("{:#x}", 1u64 << 62 | (between_groups as u64) << 32 | (between_blocks as u64) << 16)
}

/// What a descriptor grows by for the next 16 of the depth, in units of 16 bytes.
fn sixteen_deeper(major: Major) -> usize {
    match major {
        Major::Depth => 2,
        Major::Outer => 16 * 2 * LINE / 16,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the caller declares.
    const OPERANDS: [&str; 10] =
        ["smem", "m", "n", "k", "slices", "parts", "map_a", "map_b", "map_c", "map_gate"];

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '%' || c == '.' || c == ':'))
    }

    /// Operands of an instruction that are registers: lower-case names, without modifiers and specials.
    fn registers(line: &str) -> impl Iterator<Item = &str> {
        let line =
            if line.starts_with('@') { line.split_once(' ').map_or("", |(_, rest)| rest) } else { line };
        let operands = line.split_once(' ').map_or("", |(_, operands)| operands);
        words(operands)
            .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains('.'))
    }

    #[test]
    fn every_register_is_declared_and_every_placeholder_filled() {
        let forms = [(Major::Depth, false, false), (Major::Outer, false, false), (Major::Outer, true, false)];
        for (major, sliced, gated) in forms.into_iter().chain([(Major::Outer, false, true)]) {
            let text =
                Kernel { tile: Tile::choose(8192, 8192, 132), a: major, b: major, sliced, gated }.ptx();
            assert!(!text.lines().any(|line| line.matches('@').count() > 1), "a placeholder is left");
            let (declared, code): (Vec<&str>, Vec<&str>) =
                text.lines().partition(|line| line.starts_with(".reg"));
            let names: BTreeSet<&str> =
                declared.iter().flat_map(|line| words(line)).chain(OPERANDS).collect();
            let sum = |name: &str| name.strip_prefix('d').is_some_and(|i| i.parse::<usize>().is_ok());
            for name in code.iter().flat_map(|line| registers(line)).filter(|name| !sum(name)) {
                assert!(names.contains(name), "{name} is not declared");
            }
        }
    }
}
