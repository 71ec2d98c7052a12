//! The value of a formula: exact where it is rational, and at fixed points where it has variables.

use super::number::{Rational, TOLERANCE};

/// A real function of a real number.
pub(super) type Function = fn(f64) -> f64;

/// The functions by their TeX names, which are also their plain ones. `log` is the decadic logarithm.
const FUNCTIONS: &[(&str, Function)] = &[
    ("sin", f64::sin),
    ("cos", f64::cos),
    ("tan", f64::tan),
    ("cot", |x| x.tan().recip()),
    ("sec", |x| x.cos().recip()),
    ("csc", |x| x.sin().recip()),
    ("arcsin", f64::asin),
    ("arccos", f64::acos),
    ("arctan", f64::atan),
    ("sinh", f64::sinh),
    ("cosh", f64::cosh),
    ("tanh", f64::tanh),
    ("ln", f64::ln),
    ("log", f64::log10),
    ("exp", f64::exp),
    ("abs", f64::abs),
];

/// The function of that name.
pub(super) fn function(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|&(_, function)| function)
}

/// A formula.
pub(super) enum Expression {
    Number(Rational),
    Constant(f64),
    Variable(String),
    Sum(Box<Expression>, Box<Expression>),
    Product(Box<Expression>, Box<Expression>),
    Quotient(Box<Expression>, Box<Expression>),
    Power(Box<Expression>, Box<Expression>),
    /// The degree, and what the root is of.
    Root(Box<Expression>, Box<Expression>),
    Binomial(Box<Expression>, Box<Expression>),
    Factorial(Box<Expression>),
    Absolute(Box<Expression>),
    Function(Function, Box<Expression>),
}

/// How many points two formulas are compared at.
pub(super) const POINTS: u64 = 12;

/// The unit of rounding, with room for functions that round less well.
const ROUNDING: f64 = 1e-15;

/// A value and a bound of its rounding error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl Expression {
    pub(super) fn integer(value: i128) -> Self {
        Self::Number(Rational::integer(value))
    }

    pub(super) fn negative(self) -> Self {
        Self::Product(Box::new(Self::integer(-1)), Box::new(self))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self::Sum(Box::new(self), Box::new(other))
    }

    pub(super) fn times(self, other: Self) -> Self {
        Self::Product(Box::new(self), Box::new(other))
    }

    pub(super) fn over(self, other: Self) -> Self {
        Self::Quotient(Box::new(self), Box::new(other))
    }

    pub(super) fn raised_to(self, exponent: Self) -> Self {
        Self::Power(Box::new(self), Box::new(exponent))
    }

    pub(super) fn has_variables(&self) -> bool {
        match self {
            Self::Number(_) | Self::Constant(_) => false,
            Self::Variable(_) => true,
            Self::Factorial(x) | Self::Absolute(x) | Self::Function(_, x) => x.has_variables(),
            Self::Sum(a, b)
            | Self::Product(a, b)
            | Self::Quotient(a, b)
            | Self::Power(a, b)
            | Self::Root(a, b)
            | Self::Binomial(a, b) => a.has_variables() || b.has_variables(),
        }
    }

    /// The value, if it is rational and nothing overflows on the way.
    pub(super) fn exact(&self) -> Option<Rational> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Constant(_) | Self::Variable(_) | Self::Function(..) => None,
            Self::Sum(a, b) => a.exact()?.add(b.exact()?),
            Self::Product(a, b) => a.exact()?.multiply(b.exact()?),
            Self::Quotient(a, b) => a.exact()?.divide(b.exact()?),
            Self::Power(base, exponent) => base.exact()?.power(exponent.exact()?),
            Self::Root(degree, radicand) => radicand.exact()?.root(degree.exact()?.as_integer()?),
            Self::Binomial(total, count) => total.exact()?.choose(count.exact()?),
            Self::Factorial(x) => x.exact()?.factorial(),
            Self::Absolute(x) => x.exact()?.absolute(),
        }
    }

    /// The value at one of the [`POINTS`] points, with what rounding may have done to it.
    pub(super) fn sample(&self, point: u64) -> Sample {
        match self {
            Self::Number(number) => Sample::rounded(number.value(), 0.0),
            Self::Constant(value) => Sample::rounded(*value, 0.0),
            Self::Variable(name) => Sample { value: coordinate(name, point), error: 0.0 },
            Self::Sum(a, b) => a.sample(point).plus(b.sample(point)),
            Self::Product(a, b) => a.sample(point).times(b.sample(point)),
            Self::Quotient(a, b) => a.sample(point).over(b.sample(point)),
            Self::Power(base, exponent) => base.sample(point).raised_to(exponent.sample(point)),
            Self::Root(degree, radicand) => {
                let degree = degree.sample(point).value;
                radicand.sample(point).map(|x| root(x, degree))
            }
            Self::Binomial(total, count) => {
                let (total, count) = (total.sample(point).value, count.sample(point).value);
                let ways = factorial(total) / factorial(count) / factorial(total - count);
                Sample::rounded(ways, ways * total * ROUNDING)
            }
            Self::Factorial(x) => Sample::rounded(factorial(x.sample(point).value), 0.0),
            Self::Absolute(x) => x.sample(point).map(f64::abs),
            Self::Function(function, x) => x.sample(point).map(function),
        }
    }
}

impl Sample {
    fn rounded(value: f64, error: f64) -> Self {
        Self { value, error: error + ROUNDING * value.abs() }
    }

    fn plus(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.error + other.error)
    }

    pub(super) fn times(self, other: Self) -> Self {
        let error = self.value.abs() * other.error + other.value.abs() * self.error;
        Self::rounded(self.value * other.value, error)
    }

    fn over(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self::rounded(value, (self.error + value.abs() * other.error) / other.value.abs())
    }

    fn raised_to(self, exponent: Self) -> Self {
        let value = self.value.powf(exponent.value);
        let of_base = if self.error == 0.0 { 0.0 } else { (exponent.value * self.error / self.value).abs() };
        let of_exponent =
            if exponent.error == 0.0 { 0.0 } else { (self.value.abs().ln() * exponent.error).abs() };
        Self::rounded(value, value.abs() * (of_base + of_exponent))
    }

    fn map(self, function: impl Fn(f64) -> f64) -> Self {
        let value = function(self.value);
        let shift = |error: f64| (function(self.value + error) - value).abs();
        Self::rounded(value, shift(self.error).max(shift(-self.error)))
    }

    pub(super) fn is_finite(self) -> bool {
        self.value.is_finite() && self.error.is_finite()
    }

    /// Whether the values agree up to the tolerance and what rounding may have done to both.
    pub(super) fn agrees(self, other: Self) -> bool {
        let tolerance = TOLERANCE * self.value.abs().max(other.value.abs());
        (self.value - other.value).abs() <= tolerance + self.error + other.error
    }
}

/// The real root; of a negative number where the degree is odd.
fn root(x: f64, degree: f64) -> f64 {
    if x < 0.0 && degree.rem_euclid(2.0) == 1.0 { -(-x).powf(degree.recip()) } else { x.powf(degree.recip()) }
}

/// Of a whole number; else, and beyond what an `f64` holds, not finite.
fn factorial(x: f64) -> f64 {
    if !(0.0..=170.0).contains(&x) || x.fract() != 0.0 {
        return f64::NAN;
    }
    (1..=x as u32).map(f64::from).product()
}

/// Where a variable lies at a point: at least 1/4 from any whole number, within 3 of 0. Even points are positive
/// throughout, every fourth is negative throughout, and in the others the signs are mixed.
fn coordinate(name: &str, point: u64) -> f64 {
    let mut hash = point.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let fraction = 0.25 + 0.5 * (hash >> 32) as f64 / 2_f64.powi(32);
    let size = (hash % 3) as f64 + fraction;
    let negative = point % 4 == 1 || point % 4 == 3 && hash >> 31 & 1 == 1;
    if negative { -size } else { size }
}
