//! A mixing matrix as a picture: |M\[t, s\]| on a logarithmic colour scale, as SVG paths.
//!
//! Every colour is one path whose subpaths are the runs of cells that have it, so that 64 x 64 cells take about 10 kB.

use std::fmt::Write;

/// Colours from the smallest entry to the largest (every 17th of matplotlib's inferno).
const COLORS: [&str; 16] = [
    "#000004", "#0c0826", "#240c4f", "#420a68", "#5d126e", "#781c6d", "#932667", "#ae305c", "#c73e4c",
    "#dd513a", "#ed6925", "#f8850f", "#fca50a", "#fac62d", "#f2e661", "#fcffa4",
];
/// The scale's ends, as powers of ten; what lies outside takes the colour at the end.
const DECADES: (f64, f64) = (-4.0, 0.0);
/// Side of the picture in CSS pixels.
const SIDE: usize = 208;

/// A square of entries, row `t` (the query) after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    values: Vec<f32>,
    side: usize,
}

impl Square {
    /// # Panics
    /// When `values` is not `side * side` long.
    pub fn new(values: Vec<f32>, side: usize) -> Self {
        assert_eq!(values.len(), side * side, "a square of {side} has {} entries", side * side);
        Self { values, side }
    }

    /// Frobenius norm of the difference to `other`.
    ///
    /// # Panics
    /// When the sides differ.
    pub fn distance(&self, other: &Self) -> f64 {
        assert_eq!(self.side, other.side, "squares of different sides");
        let squares = self.values.iter().zip(&other.values).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    }
}

/// Draws the square; the query runs down, the key to the right.
pub fn picture(square: &Square) -> String {
    let place =
        format!("class=\"heat\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{SIDE}\" height=\"{SIDE}\"");
    placed(square, &place)
}

/// A picture of its own: one row of squares for every name, one column for every heading.
///
/// # Panics
/// When a row has not as many squares as there are headings.
pub fn sheet(headings: &[String], rows: &[(&str, Vec<&Square>)]) -> String {
    let (left, top, cell, gap) = (64, 24, 112, 8);
    let (width, height) = (left + headings.len() * (cell + gap), top + rows.len() * (cell + gap));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#808080\">"
    );
    for (column, heading) in headings.iter().enumerate() {
        let _ = write!(svg, "<text x=\"{}\" y=\"16\">{heading}</text>", left + column * (cell + gap));
    }
    for (row, (name, squares)) in rows.iter().enumerate() {
        assert_eq!(squares.len(), headings.len(), "one square for every heading");
        let y = top + row * (cell + gap);
        let _ = write!(svg, "<text x=\"0\" y=\"{}\">{name}</text>", y + cell / 2);
        for (column, square) in squares.iter().enumerate() {
            let x = left + column * (cell + gap);
            svg += &placed(square, &format!("x=\"{x}\" y=\"{y}\" width=\"{cell}\" height=\"{cell}\""));
        }
    }
    svg + "</svg>"
}

/// The square as an `<svg>` element with the attributes of `place`.
fn placed(square: &Square, place: &str) -> String {
    let side = square.side;
    let mut svg = format!(
        "<svg {place} viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\" role=\"img\">\
         <rect width=\"{side}\" height=\"{side}\" fill=\"{}\"/><g fill=\"none\" transform=\"translate(0 .5)\">",
        COLORS[0]
    );
    for (level, path) in paths(square).iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let _ = write!(svg, "<path stroke=\"{}\" d=\"{path}\"/>", COLORS[level]);
    }
    svg + "</g></svg>"
}

/// The scale beside the pictures.
pub fn legend() -> String {
    let (width, height) = (240, 12);
    let cell = width / COLORS.len();
    let mut svg = format!(
        "<svg class=\"scale\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"32\" viewBox=\"-14 0 {0} 32\" \
         shape-rendering=\"crispEdges\" role=\"img\">",
        width + 28
    );
    for (level, color) in COLORS.iter().enumerate() {
        let _ = write!(
            svg,
            "<rect x=\"{}\" width=\"{cell}\" height=\"{height}\" fill=\"{color}\"/>",
            level * cell
        );
    }
    let decades = DECADES.0 as i32..=DECADES.1 as i32;
    let spacing = width / (decades.clone().count() - 1);
    for (index, decade) in decades.enumerate() {
        let label = if decade == 0 {
            "1".into()
        } else {
            format!("10<tspan dy=\"-4\" font-size=\"8\">{decade}</tspan>")
        };
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"28\" text-anchor=\"middle\" font-size=\"11\" fill=\"currentColor\">{label}</text>",
            index * spacing
        );
    }
    svg + "</svg>"
}

/// For each colour above the first, the runs of cells that have it.
fn paths(square: &Square) -> [String; COLORS.len()] {
    let mut paths: [String; COLORS.len()] = Default::default();
    for (row, values) in square.values.chunks(square.side).enumerate() {
        let mut start = 0;
        for run in values.chunk_by(|a, b| level(*a) == level(*b)) {
            let color = level(run[0]);
            if color > 0 {
                let _ = write!(paths[color], "M{start} {row}h{}", run.len());
            }
            start += run.len();
        }
    }
    paths
}

fn level(value: f32) -> usize {
    let place = (f64::from(value.abs()).log10() - DECADES.0) / (DECADES.1 - DECADES.0);
    (place * COLORS.len() as f64).clamp(0.0, COLORS.len() as f64 - 1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_from_a_ten_thousandth_to_one_span_the_scale() {
        assert_eq!(
            [0.0, 1e-5, 1.1e-4, 1.1e-2, -1.1e-2, 1.0, 7.0, f32::NAN].map(level),
            [0, 0, 0, 8, 8, 15, 15, 0]
        );
    }

    #[test]
    fn cells_of_one_colour_in_a_row_are_one_run() {
        let svg = picture(&Square::new(vec![1.0, 0.0, 0.5, 0.5], 2));
        assert!(svg.contains("M0 0h1") && svg.contains("M0 1h2"), "{svg}");
    }

    #[test]
    fn a_sheet_holds_every_square_and_name() {
        let square = Square::new(vec![1.0, 0.0, 0.5, 0.5], 2);
        let svg =
            sheet(&["one".into(), "two".into()], &[("above", vec![&square; 2]), ("below", vec![&square; 2])]);
        assert_eq!(svg.matches("<path").count(), 8);
        assert!(svg.contains("x=\"64\" y=\"24\"") && svg.contains("x=\"184\" y=\"144\""), "{svg}");
        assert!(["one", "two", "above", "below"].iter().all(|name| svg.contains(&format!(">{name}<"))));
    }

    #[test]
    fn a_causal_matrix_of_64_tokens_stays_small() {
        let values = (0..64 * 64).map(|i| if i % 64 <= i / 64 { (i * 37 % 101) as f32 / 101.0 } else { 0.0 });
        assert!(picture(&Square::new(values.collect(), 64)).len() < 30_000);
    }

    #[test]
    fn distance_is_the_frobenius_norm_of_the_difference() {
        let (a, b) = (Square::new(vec![0.0, 3.0, 0.0, 0.0], 2), Square::new(vec![0.0, 0.0, 4.0, 0.0], 2));
        assert!((a.distance(&b) - 5.0).abs() < 1e-9);
    }
}
