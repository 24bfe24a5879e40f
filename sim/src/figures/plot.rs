//! Plots as SVG: lines over a linear axis and a logarithmic one, and single points.
//!
//! ```text
//!  title
//!  10⁴ ┤ ╲__            ── a line's label
//!  10³ ┤    ╲___        ── another's
//!  10² ┤ ○      ╲__      ○  points: the paper's
//!      └─┬────┬────┬─
//!        0   60   120
//! ```

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
/// Room beside the axes: left, right (for the labels of lines), top, bottom.
const MARGINS: [f64; 4] = [70.0, 150.0, 40.0, 55.0];
/// Of lines in their order: distinct for people who do not see all colours, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#000000", "#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7"];

/// A line with its label.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x_label: &'static str,
    pub(super) y_label: &'static str,
    /// Where the linear axis is marked, from its beginning to its end.
    pub(super) x_ticks: Vec<f64>,
    pub(super) lines: Vec<Line>,
    /// Single points, drawn as circles, and what they are.
    pub(super) points: Line,
}

/// The axes: from values to places.
struct Axes {
    x: (f64, f64),
    /// Powers of ten.
    y: (i32, i32),
}

impl Axes {
    fn of(plot: &Plot) -> Self {
        let x = (plot.x_ticks[0], plot.x_ticks[plot.x_ticks.len() - 1]);
        let all = plot.lines.iter().chain([&plot.points]).flat_map(|line| &line.points);
        let positive = all.map(|&(_, y)| y).filter(|&y| y > 0.0);
        let (low, high) =
            positive.fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
        let low = low.log10().floor() as i32;
        Self { x, y: (low, (high.log10().ceil() as i32).max(low + 1)) }
    }

    fn x(&self, value: f64) -> f64 {
        let [left, right, ..] = MARGINS;
        left + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - left - right)
    }

    /// What is nothing lies at the bottom.
    fn y(&self, value: f64) -> f64 {
        let [.., top, bottom] = MARGINS;
        let (low, high) = (f64::from(self.y.0), f64::from(self.y.1));
        let part = (value.log10().max(low) - low) / (high - low);
        HEIGHT - bottom - part * (HEIGHT - top - bottom)
    }
}

impl Plot {
    /// The SVG document.
    pub(super) fn svg(&self) -> String {
        let axes = Axes::of(self);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (MARGINS[0], 24.0), "start", &self.title);
        self.grid(&axes, &mut svg);
        for (n, line) in self.lines.iter().enumerate() {
            draw(line, COLOURS[n % COLOURS.len()], n, &axes, &mut svg);
        }
        for &(x, y) in &self.points.points {
            circle(&mut svg, (axes.x(x), axes.y(y)));
        }
        if !self.points.points.is_empty() {
            let at = legend(self.lines.len());
            circle(&mut svg, (at.0 + 10.0, at.1 - 4.0));
            text(&mut svg, (at.0 + 26.0, at.1), "start", &self.points.label);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn grid(&self, axes: &Axes, svg: &mut String) {
        let (left, right) = (axes.x(axes.x.0), axes.x(axes.x.1));
        let (top, bottom) = (MARGINS[2], HEIGHT - MARGINS[3]);
        for &tick in &self.x_ticks {
            let x = axes.x(tick);
            rule(svg, (x, top), (x, bottom));
            text(svg, (x, bottom + 18.0), "middle", &tick.to_string());
        }
        for power in axes.y.0..=axes.y.1 {
            let value = 10_f64.powi(power);
            rule(svg, (left, axes.y(value)), (right, axes.y(value)));
            text(svg, (left - 8.0, axes.y(value) + 4.0), "end", &value.to_string());
        }
        text(svg, (f64::midpoint(left, right), HEIGHT - 14.0), "middle", self.x_label);
        let middle = f64::midpoint(top, bottom);
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 16 {middle})\">{}</text>",
            self.y_label
        );
    }
}

/// Where the legend's entry for a line stands.
fn legend(n: usize) -> (f64, f64) {
    (WIDTH - MARGINS[1] + 12.0, MARGINS[2] + 12.0 + 20.0 * n as f64)
}

fn draw(line: &Line, colour: &str, n: usize, axes: &Axes, svg: &mut String) {
    let mut path = String::new();
    for &(x, y) in &line.points {
        let _ = write!(path, "{:.1},{:.1} ", axes.x(x), axes.y(y));
    }
    let at = legend(n);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
         <line x1=\"{}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.trim_end(),
        at.0,
        at.0 + 20.0,
        y = at.1 - 4.0,
    );
    text(svg, (at.0 + 26.0, at.1), "start", &line.label);
}

fn rule(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
    );
}

fn circle(svg: &mut String, (x, y): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"none\" stroke=\"#c00\" \
         stroke-width=\"2\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_where_the_axes_say() {
        let plot = Plot {
            title: "a < b".into(),
            x_label: "x",
            y_label: "y",
            x_ticks: vec![0.0, 50.0, 100.0],
            lines: vec![Line { label: "one".into(), points: vec![(0.0, 10.0), (100.0, 1_000.0)] }],
            points: Line { label: "paper".into(), points: vec![(50.0, 100.0)] },
        };
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b"));
        // From the lower left corner to the upper right one, and the circle in the middle.
        assert!(svg.contains("points=\"70.0,405.0 610.0,40.0\""), "{svg}");
        assert!(svg.contains("cx=\"340.0\" cy=\"222.5\""), "{svg}");
    }
}
