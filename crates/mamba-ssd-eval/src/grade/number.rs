//! Exact rationals, and when two numbers are the same.

/// How far two numbers may lie apart, relative to the larger, where one of them is rounded.
pub(super) const TOLERANCE: f64 = 1e-9;

/// A fraction in lowest terms over a positive denominator. Whatever overflows is `None`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    pub(super) const fn integer(value: i128) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    fn new(numerator: i128, denominator: i128) -> Option<Self> {
        let divisor =
            i128::try_from(common_divisor(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        let sign = if denominator < 0 { -1 } else { 1 };
        let scale = |value: i128| value.checked_div(divisor)?.checked_mul(sign);
        (denominator != 0).then_some(Self { numerator: scale(numerator)?, denominator: scale(denominator)? })
    }

    /// Reads `12`, `0.5`, `1.2e-3`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let numerator = format!("{whole}{fraction}").parse().ok()?;
        let places = i32::try_from(fraction.len()).ok()?;
        let exponent = exponent.parse::<i32>().ok()?.checked_sub(places)?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
        if exponent < 0 {
            Self::new(numerator, power)
        } else {
            Self::new(numerator, 1)?.multiply(Self::integer(power))
        }
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    pub(super) fn multiply(self, other: Self) -> Option<Self> {
        Self::new(
            self.numerator.checked_mul(other.numerator)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }

    pub(super) fn divide(self, other: Self) -> Option<Self> {
        self.multiply(Self::new(other.denominator, other.numerator)?)
    }

    pub(super) fn negate(self) -> Option<Self> {
        self.multiply(Self::integer(-1))
    }

    pub(super) fn absolute(self) -> Option<Self> {
        if self.numerator < 0 { self.negate() } else { Some(self) }
    }

    /// `self ^ exponent`, where that is rational.
    pub(super) fn power(self, exponent: Self) -> Option<Self> {
        let base = self.root(exponent.denominator)?;
        let raised = base.raise(exponent.numerator.unsigned_abs())?;
        if exponent.numerator < 0 { Self::integer(1).divide(raised) } else { Some(raised) }
    }

    /// By squaring, so that an exponent of any size takes at most 128 steps.
    fn raise(self, mut exponent: u128) -> Option<Self> {
        let (mut square, mut product) = (self, Self::integer(1));
        while exponent > 0 {
            if exponent & 1 == 1 {
                product = product.multiply(square)?;
            }
            exponent >>= 1;
            if exponent > 0 {
                square = square.multiply(square)?;
            }
        }
        Some(product)
    }

    /// The root of a perfect power.
    pub(super) fn root(self, degree: i128) -> Option<Self> {
        let degree = u32::try_from(degree).ok().filter(|&degree| degree > 0)?;
        Self::new(integer_root(self.numerator, degree)?, integer_root(self.denominator, degree)?)
    }

    pub(super) fn factorial(self) -> Option<Self> {
        let last = self.as_integer().filter(|&value| value >= 0)?;
        (1..=last).try_fold(1_i128, i128::checked_mul).map(Self::integer)
    }

    /// The number of ways to choose `count` of `self`.
    pub(super) fn choose(self, count: Self) -> Option<Self> {
        let (total, count) = (self.as_integer()?, count.as_integer()?);
        if count < 0 || count > total {
            return None;
        }
        let count = count.min(total - count);
        let step = |ways: i128, taken: i128| Some(ways.checked_mul(total - taken)? / (taken + 1));
        (0..count).try_fold(1, step).map(Self::integer)
    }

    pub(super) fn as_integer(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    pub(super) fn value(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Whether this equals `other`, or is a decimal that stands for it. Only a number without a finite decimal
    /// expansion has decimals that stand for it, and those lie within 1e-9 of it.
    pub(super) fn same(self, other: Self) -> bool {
        let stands_for = |decimal: Self, number: Self| {
            decimal.denominator > 1 && decimal.terminates() && !number.terminates()
        };
        self == other
            || (stands_for(self, other) || stands_for(other, self)) && close(self.value(), other.value())
    }

    /// Whether the decimal expansion ends: no prime but 2 and 5 divides the denominator.
    fn terminates(self) -> bool {
        let mut rest = self.denominator;
        for prime in [2, 5] {
            while rest % prime == 0 {
                rest /= prime;
            }
        }
        rest == 1
    }
}

/// Whether two numbers agree up to rounding.
pub(super) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// Euclid's algorithm; 1 if both are 0.
fn common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// The integer whose power is `value`, if there is one.
fn integer_root(value: i128, degree: u32) -> Option<i128> {
    if degree == 1 {
        return Some(value);
    }
    if value < 0 {
        return if degree % 2 == 1 {
            integer_root(value.checked_neg()?, degree)?.checked_neg()
        } else {
            None
        };
    }
    let guess = (value as f64).powf(1.0 / f64::from(degree)).round() as i128;
    (guess.saturating_sub(1)..=guess.saturating_add(1)).find(|root| root.checked_pow(degree) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Rational {
        Rational::parse(text).expect("within i128")
    }

    #[test]
    fn decimals_are_exact() {
        let sum = number("0.1").add(number("0.2"));
        assert_eq!(sum, Some(number("0.3")));
        assert_eq!(number("1.2e3"), number("1200"));
        assert_eq!(number("5e-2").multiply(number("20")), Some(number("1")));
    }

    #[test]
    fn overflow_is_none() {
        let large = number("1e38");
        assert_eq!(large.add(large), None);
        assert_eq!(large.multiply(large), None);
        assert_eq!(number("2").power(number("127")), None);
        assert_eq!(number("34").factorial(), None);
        assert_eq!(Rational::parse("1e39"), None);
        assert_eq!(Rational::parse(&"9".repeat(40)), None);
        assert_eq!(number("1").divide(number("0")), None);
    }

    #[test]
    fn powers_and_roots_of_perfect_powers_are_exact() {
        assert_eq!(
            number("8").power(number("2").divide(number("3")).expect("within i128")),
            Some(number("4"))
        );
        assert_eq!(number("4").power(number("-0.5")), Some(number("0.5")));
        assert_eq!(number("8").negate().expect("within i128").root(3), number("2").negate());
        assert_eq!(number("2").root(2), None);
        assert_eq!(number("1").negate().expect("within i128").root(2), None);
    }

    #[test]
    fn choosing_counts_subsets() {
        assert_eq!(number("10").choose(number("3")), Some(number("120")));
        assert_eq!(number("3").choose(number("10")), None);
    }

    #[test]
    fn a_decimal_stands_for_what_has_no_finite_expansion() {
        let third = number("1").divide(number("3")).expect("within i128");
        assert!(number("0.3333333333").same(third));
        assert!(!number("0.3333").same(third));
        assert!(!number("0.5000000001").same(number("0.5")));
        assert!(!number("10000000000").same(number("10000000001")));
    }
}
