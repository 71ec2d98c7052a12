//! Line and bar charts as SVG text, by plotters.
//!
//! Text, axes and grid take the colours of the page around them (see [`themed`]), so that one drawing is readable in
//! light and in dark.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, SegmentValue, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Stands for the page's text colour until [`themed`] replaces it.
const INK: RGBColor = RGBColor(1, 1, 1);
/// Stands for the page's grid colour.
const GRID: RGBColor = RGBColor(2, 2, 2);
const SIZE: (u32, u32) = (560, 300);
/// More points than this cannot be told apart in a chart of [`SIZE`].
const MAX_POINTS: usize = 240;

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)` in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A chart of curves over a common axis, y in powers of ten.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// What x is, with its unit.
    pub x: String,
    /// What y is, with its unit.
    pub y: String,
    /// The lines.
    pub curves: Vec<Curve>,
}

/// A mean with the interval around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Its name in the legend.
    pub name: String,
    /// x, mean, lower and upper end.
    pub points: Vec<[f64; 4]>,
}

/// A chart of shares, from 0 to the largest.
#[derive(Clone, Debug)]
pub struct BandChart {
    /// What x is, with its unit.
    pub x: String,
    /// What y is a share of.
    pub y: String,
    /// The lines.
    pub bands: Vec<Band>,
}

/// A chart of one bar for each name.
#[derive(Clone, Debug)]
pub struct BarChart {
    /// What the height is, with its unit.
    pub y: String,
    /// Name and height of each bar; the first is the teacher's.
    pub bars: Vec<(String, f64)>,
    /// The heights span several powers of ten.
    pub logarithmic: bool,
    /// How a height is written above its bar.
    pub format: fn(f64) -> String,
}

/// The colour of line `index` of `count`: blue for the first, through green, to red for the last.
pub fn curve_color(index: usize, count: usize) -> RGBColor {
    let place = index as f64 / count.saturating_sub(1).max(1) as f64;
    let (r, g, b) = HSLColor((220.0 - 215.0 * place) / 360.0, 0.68, 0.52).rgb();
    RGBColor(r, g, b)
}

/// Draws the curves.
///
/// # Errors
/// When no point is positive and finite.
pub fn lines(chart: &LineChart) -> Result<String> {
    let curves: Vec<Vec<(f64, f64)>> = chart.curves.iter().map(|curve| thin(&curve.points)).collect();
    let (x, y) = bounds(&curves).ok_or_else(|| anyhow!("no loss to draw"))?;
    draw(|area| {
        let mut axes = ChartBuilder::on(area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(x.0..x.1, (y.0..y.1).log_scale().with_key_points(ticks(y)))?;
        axes_on(&mut axes, &chart.x, &chart.y)?;
        for (index, points) in curves.iter().enumerate() {
            let style = curve_color(index, curves.len()).stroke_width(2);
            axes.draw_series(LineSeries::new(points.iter().copied(), style))?;
        }
        Ok(())
    })
}

/// Draws the means over their intervals.
///
/// # Errors
/// When plotters cannot.
pub fn bands(chart: &BandChart) -> Result<String> {
    let points = || chart.bands.iter().flat_map(|band| &band.points);
    let right = points().map(|point| point[0]).fold(f64::MIN_POSITIVE, f64::max);
    let top = points().map(|point| point[3]).fold(0.01, f64::max);
    draw(|area| {
        let mut axes = ChartBuilder::on(area)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(46)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..right, 0.0..(1.05 * top).min(1.0))?;
        axes_on(&mut axes, &chart.x, &chart.y)?;
        for (index, band) in chart.bands.iter().enumerate() {
            let color = curve_color(index, chart.bands.len());
            let low = band.points.iter().map(|point| (point[0], point[2]));
            let high = band.points.iter().rev().map(|point| (point[0], point[3]));
            axes.draw_series([Polygon::new(low.chain(high).collect::<Vec<_>>(), color.mix(0.15))])?;
            let means = band.points.iter().map(|point| (point[0], point[1]));
            axes.draw_series(LineSeries::new(means, color.stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Draws the bars, the teacher's in amber.
///
/// # Errors
/// When a height is not finite.
pub fn bars(chart: &BarChart) -> Result<String> {
    let top = chart.bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    if !chart.bars.iter().all(|bar| bar.1.is_finite()) {
        return Err(anyhow!("a bar of {} is not finite", chart.y));
    }
    if chart.logarithmic {
        draw(|area| bars_on(area, chart, 1.0, (1.0..(top * 1.8).max(10.0)).log_scale()))
    } else {
        draw(|area| bars_on(area, chart, 0.0, 0.0..(top * 1.15).max(1e-3)))
    }
}

fn bars_on<Y>(area: &Area<'_>, chart: &BarChart, floor: f64, heights: Y) -> Result<()>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(index) => chart.bars.get(*index).map(|bar| bar.0.clone()).unwrap_or_default(),
        _ => String::new(),
    };
    let mut axes = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(58)
        .build_cartesian_2d((0..chart.bars.len() - 1).into_segmented(), heights)?;
    axes.configure_mesh()
        .disable_x_mesh()
        .y_desc(chart.y.as_str())
        .x_labels(chart.bars.len())
        .y_labels(5)
        .x_label_formatter(&name)
        .y_label_formatter(&|y| compact(*y))
        .axis_style(INK.mix(0.5))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(ink(13.0))
        .axis_desc_style(ink(14.0))
        .draw()?;
    axes.draw_series(chart.bars.iter().enumerate().map(|(index, bar)| {
        let corners =
            [(SegmentValue::Exact(index), floor), (SegmentValue::Exact(index + 1), bar.1.max(floor))];
        let mut rectangle = Rectangle::new(corners, bar_color(index).filled());
        rectangle.set_margin(0, 0, 14, 14);
        rectangle
    }))?;
    let above = ink(14.0).pos(Pos::new(HPos::Center, VPos::Bottom));
    axes.draw_series(chart.bars.iter().enumerate().map(|(index, bar)| {
        Text::new((chart.format)(bar.1), (SegmentValue::CenterOf(index), bar.1.max(floor)), above.clone())
    }))?;
    Ok(())
}

/// Axes with their names, and a grid.
fn axes_on<Y>(axes: &mut Plane<'_, '_, Y>, x: &str, y: &str) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    axes.configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_labels(6)
        .x_label_formatter(&|x| compact(*x))
        .y_label_formatter(&|y| compact(*y))
        .axis_style(INK.mix(0.5))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(ink(13.0))
        .axis_desc_style(ink(14.0))
        .draw()?;
    Ok(())
}

type Plane<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(picture: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        picture(&area)?;
        area.present()?;
    }
    Ok(themed(&svg))
}

/// Lets the page choose the colours of text and grid.
fn themed(svg: &str) -> String {
    svg.replace("#010101", "currentColor").replace("#020202", "var(--grid)").replace(" \"/>", "\"/>")
}

fn ink(size: f64) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size * 1.24).into_font()).color(&INK)
}

fn bar_color(index: usize) -> RGBColor {
    if index == 0 { RGBColor(224, 150, 30) } else { RGBColor(58, 122, 214) }
}

/// Means of equal runs of points, at most [`MAX_POINTS`]; what a logarithmic axis cannot show is left out.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let drawable: Vec<_> =
        points.iter().copied().filter(|point| point.1.is_finite() && point.1 > 0.0).collect();
    let run = drawable.len().div_ceil(MAX_POINTS).max(1);
    let mean = |run: &[(f64, f64)]| {
        let n = run.len() as f64;
        (run.iter().map(|point| point.0).sum::<f64>() / n, run.iter().map(|point| point.1).sum::<f64>() / n)
    };
    drawable.chunks(run).map(mean).collect()
}

type Range = (f64, f64);

/// The ranges of x and y, y with a margin.
fn bounds(curves: &[Vec<(f64, f64)>]) -> Option<(Range, Range)> {
    let points = || curves.iter().flatten();
    points().next()?;
    let range = |value: fn(&(f64, f64)) -> f64| {
        let least = points().map(value).fold(f64::INFINITY, f64::min);
        let most = points().map(value).fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    };
    let (x, y) = (range(|point| point.0), range(|point| point.1));
    let x = if x.0 < x.1 { x } else { (x.0 - 1.0, x.1 + 1.0) };
    Some((x, (y.0 / 1.15, y.1 * 1.15)))
}

/// Round numbers for a logarithmic axis: powers of ten, with more between them the shorter the range is.
fn ticks(range: Range) -> Vec<f64> {
    const STEPS: [&[f64]; 3] =
        [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]];
    let decades = range.0.log10().floor() as i32..=range.1.log10().ceil() as i32;
    let within = |steps: &[f64]| -> Vec<f64> {
        let every =
            decades.clone().flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        every.filter(|tick| (range.0..=range.1).contains(tick)).collect()
    };
    STEPS.iter().map(|steps| within(steps)).find(|ticks| ticks.len() >= 3).unwrap_or_else(|| within(STEPS[2]))
}

/// A number in as few characters as an axis needs.
fn compact(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        size if size >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        size if size >= 0.001 => trimmed(value),
        _ => format!("{value:.0e}"),
    }
}

/// Three significant digits without trailing zeros.
fn trimmed(value: f64) -> String {
    let decimals = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling(name: &str, scale: f64) -> Curve {
        let points = (1..=1000).map(|step| (step as f64 * 2048.0, scale / step as f64)).collect();
        Curve { name: name.into(), points }
    }

    #[test]
    fn a_line_chart_names_its_axes_and_takes_the_pages_colours() {
        let chart = LineChart {
            x: "tokens".into(),
            y: "loss".into(),
            curves: vec![falling("a", 3.0), falling("b", 9.0)],
        };
        let svg = lines(&chart).expect("finite points");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("tokens") && svg.contains("loss") && svg.contains("currentColor"));
        assert_eq!(svg.matches("<polyline fill=\"none\" opacity=\"1\" stroke=\"#").count(), 2);
        assert!(svg.len() < 20_000, "{} bytes", svg.len());
    }

    #[test]
    fn a_chart_of_nothing_is_an_error() {
        let curve = Curve { name: "a".into(), points: vec![(0.0, f64::NAN)] };
        assert!(lines(&LineChart { x: "x".into(), y: "y".into(), curves: vec![curve] }).is_err());
    }

    #[test]
    fn a_band_has_a_line_and_an_area_and_shows_zeros() {
        let band = |name: &str, mean: f64| Band {
            name: name.into(),
            points: vec![[1.0, 0.0, 0.0, 0.1], [2.0, mean, mean - 0.1, mean + 0.1]],
        };
        let chart = BandChart {
            x: "seconds".into(),
            y: "coverage".into(),
            bands: vec![band("a", 0.4), band("b", 0.5)],
        };
        let svg = bands(&chart).expect("a picture");
        assert_eq!(
            (
                svg.matches("<polygon").count(),
                svg.matches("<polyline fill=\"none\" opacity=\"1\" stroke=\"#").count()
            ),
            (2, 2)
        );
        assert!(svg.contains("seconds") && svg.contains("coverage"));
        assert!(bands(&BandChart { bands: vec![], ..chart }).is_ok());
    }

    #[test]
    fn bars_carry_their_values() {
        let bars_of = |logarithmic| BarChart {
            y: "perplexity".into(),
            bars: vec![("teacher".into(), 1.5), ("start".into(), 900.0)],
            logarithmic,
            format: |value| format!("{value:.1}"),
        };
        for logarithmic in [false, true] {
            let svg = bars(&bars_of(logarithmic)).expect("finite heights");
            assert!(svg.contains("900.0") && svg.contains("teacher"));
        }
    }

    #[test]
    fn a_logarithmic_axis_has_round_numbers_whatever_its_range() {
        assert_eq!(ticks((0.002, 30.0)), [0.01, 0.1, 1.0, 10.0]);
        assert_eq!(ticks((0.8, 6.0)), [1.0, 2.0, 5.0]);
        assert_eq!(ticks((1.1, 2.2)), [1.2, 1.5, 2.0]);
    }

    #[test]
    fn numbers_on_axes_are_short() {
        let shown: Vec<String> = [0.0, 0.05, 1.0, 12.5, 1500.0, 2_000_000.0, 1e-5].map(compact).into();
        assert_eq!(shown, ["0", "0.05", "1", "12.5", "1.5k", "2M", "1e-5"]);
    }
}
