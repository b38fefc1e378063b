//! The score of a row, from its influence on the seeds.

/// The score of a row with influence x_s on seed s = 1..S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The mean of x_s.
    Mean,
    /// The mean of x_s over the root of the mean of x_s^2, from -1 to 1; 0 where all x_s are 0. It orders rows as the
    /// mean over the standard deviation does, so the length of the gradient does not matter.
    Steady,
}

impl Score {
    /// The score of one row. It is NaN or infinite if a number of the row is.
    pub fn of(self, influence: &[f32]) -> f64 {
        let n = influence.len().max(1) as f64;
        let sum: f64 = influence.iter().map(|&x| f64::from(x)).sum();
        // A number that is not finite makes the sum so, because float32 numbers cannot overflow a float64.
        if self == Score::Mean || !sum.is_finite() || sum == 0.0 {
            return sum / n;
        }
        // Squares of float32s neither overflow nor vanish in float64.
        let squares: f64 = influence.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sum / (n * squares).sqrt()
    }
}
