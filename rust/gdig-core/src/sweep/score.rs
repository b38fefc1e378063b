//! What a row's influence on the seeds comes to.

/// The score of a row with influence x_s on seed s = 1..S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The mean of x_s.
    Mean,
    /// The mean of x_s over the root of the mean of x_s^2: -1 to 1, 0 where all are 0. It orders rows as the mean over
    /// the standard deviation does, so the length of a row's gradient does not matter to it.
    Steady,
}

impl Score {
    /// Of one row; NaN or infinite if a number of it is.
    pub fn of(self, influence: &[f32]) -> f64 {
        let n = influence.len().max(1) as f64;
        let sum: f64 = influence.iter().map(|&x| f64::from(x)).sum();
        // One that is not finite makes the sum so: float32s cannot overflow a float64.
        if self == Score::Mean || !sum.is_finite() || sum == 0.0 {
            return sum / n;
        }
        // Squares of float32s neither overflow nor vanish in float64.
        let squares: f64 = influence.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sum / (n * squares).sqrt()
    }
}
