//! The score of a row, from its influence on the seeds.

/// The score of a row with value x_s on seed s = 1..S: the influence, less the seed's baseline where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The mean of x_s.
    Mean,
    /// The mean of x_s over the root of the mean of x_s^2, from -1 to 1; 0 where all x_s are 0. It orders rows as the
    /// mean over the standard deviation does, so the length of the gradient does not matter.
    Steady,
}

impl Score {
    /// The score of one row. It is NaN or infinite if a number of the row is. `baselines` is empty, or has one finite
    /// number for each seed.
    pub fn of(self, influence: &[f32], baselines: &[f64]) -> f64 {
        let values = influence.iter().map(|&x| f64::from(x));
        if baselines.is_empty() {
            return self.of_values(values);
        }
        self.of_values(values.zip(baselines).map(|(x, baseline)| x - baseline))
    }

    fn of_values(self, values: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
        let n = values.len().max(1) as f64;
        let sum: f64 = values.clone().sum();
        // A number that is not finite makes the sum so, because float32 numbers cannot overflow a float64.
        if self == Score::Mean || !sum.is_finite() || sum == 0.0 {
            return sum / n;
        }
        // Squares of float32s neither overflow nor vanish in float64. Nor do those of the differences to a mean of
        // float32s: a difference that is not 0 is at least 2^-203.
        let squares: f64 = values.map(|x| x * x).sum();
        sum / (n * squares).sqrt()
    }
}
