//! Curves over a logarithmic axis.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use plotters::prelude::*;

/// A file, and what to call it: `NAME=FILE`.
#[derive(Clone)]
pub struct NamedFile {
    /// What a legend calls it.
    pub name: String,
    /// Where it is.
    pub file: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
        Ok(Self { name: name.to_string(), file: file.into() })
    }
}

/// 1, 2 and 5 of every power of ten.
fn ticks() -> Vec<f64> {
    (-2..7).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect()
}

/// Draws named curves into an SVG; `axes` describes x, which is logarithmic, and y.
///
/// # Errors
///
/// If there is no point, or the file cannot be written.
pub fn draw_curves(out: &Path, axes: [&str; 2], curves: &[(String, Vec<(f64, f64)>)]) -> Result<()> {
    draw(out, axes, curves).with_context(|| format!("{}", out.display()))
}

fn draw(out: &Path, [x, y]: [&str; 2], curves: &[(String, Vec<(f64, f64)>)]) -> Result<()> {
    let all = || curves.iter().flat_map(|(_, points)| points);
    let longest = all().map(|point| point.0).reduce(f64::max).context("no point to draw")?;
    let shortest = all().map(|point| point.0).fold(f64::MAX, f64::min);
    let highest = all().map(|point| point.1).fold(f64::MIN, f64::max);
    let lowest = all().map(|point| point.1).fold(f64::MAX, f64::min);
    ensure!(shortest > 0.0, "a logarithmic axis has no {shortest}");
    let longest = if longest > shortest { longest } else { 2.0 * shortest };
    let room = 0.05 * (highest - lowest).max(1e-6);
    let area = SVGBackend::new(out, (720, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut axes =
        ChartBuilder::on(&area).margin(10).x_label_area_size(42).y_label_area_size(56).build_cartesian_2d(
            (shortest..longest).log_scale().with_key_points(ticks()),
            lowest - room..highest + room,
        )?;
    axes.configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|number| format!("{number}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, (name, points)) in curves.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        axes.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    axes.configure_series_labels().background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}
