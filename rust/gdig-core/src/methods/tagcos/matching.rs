//! Orthogonal matching pursuit with weights that are not negative, for the mean of one cluster.

use super::factor::Factor;
use super::members::Members;
use crate::interrupt::Supervisor;
use crate::rows::products::products;
use crate::Result;

#[derive(Clone, Copy, Debug)]
pub struct Matching {
    /// Added to the diagonal of the Gram matrix, as a share of the rows' mean squared length.
    pub ridge: f64,
    /// The pursuit ends when the residual is no longer than this share of the mean.
    pub tolerance: f64,
    /// It ends with so many weights above 0: the factor of their Gram matrix takes 4 bytes times the square of that.
    pub most_weights: usize,
}

/// A product with the residual that is no larger than this share of the largest it could be is rounding.
const ROUNDING: f64 = 1e-12;

/// The rows taken, as places in the cluster: first those of the pursuit, in its order, then the nearest to the mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    pub order: Vec<usize>,
    /// Of the rows of the pursuit.
    pub weights: Vec<f64>,
    /// Length of the residual at the end of the pursuit, as a share of the mean's.
    pub residual: f64,
}

/// Rows of the pursuit and their non-negative weights: those of least |mean - sum w_i g_i|^2 + ridge |w|^2, found by the
/// active-set method of Lawson and Hanson (1974). `positive` are those above 0, in the order of the factor.
struct Weights<'a> {
    mean: &'a [f64],
    ridge: f64,
    /// [rows, dim].
    rows: Vec<f32>,
    /// Products with the mean.
    aims: Vec<f64>,
    weights: Vec<f64>,
    positive: Vec<usize>,
    factor: Factor,
}

impl Weights<'_> {
    fn row(&self, i: usize) -> &[f32] {
        let dim = self.mean.len();
        &self.rows[i * dim..][..dim]
    }

    /// Take in one more row. False, and nothing is changed, when it depends on the others.
    fn push(&mut self, row: &[f32], noise: f64) -> bool {
        let wide: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mut aim = [0.0];
        products(row, self.mean, &mut aim);
        self.rows.extend_from_slice(row);
        self.aims.push(aim[0]);
        self.weights.push(0.0);
        if !self.free(self.weights.len() - 1, &wide) {
            self.rows.truncate(self.rows.len() - row.len());
            self.aims.pop();
            self.weights.pop();
            return false;
        }
        // A row whose weight fell to 0 comes back if it would now help: there are finitely many sets of positive weights,
        // and each step comes nearer to the mean. The bound is for steps that rounding makes.
        for _ in 0..3 * self.weights.len() {
            let residual = self.residual();
            let mut found = vec![0.0; self.weights.len()];
            products(&self.rows, &residual, &mut found);
            let idle = (0..found.len()).filter(|&i| self.weights[i] == 0.0 && found[i] > noise);
            let Some(back) = idle.max_by(|&a, &b| found[a].total_cmp(&found[b]).then(b.cmp(&a))) else { break };
            let wide: Vec<f64> = self.row(back).iter().map(|&x| f64::from(x)).collect();
            if !self.free(back, &wide) || self.weights[back] == 0.0 {
                break;
            }
        }
        true
    }

    /// Let the weight of row `i`, which is 0, become positive, and find the best weights again.
    fn free(&mut self, i: usize, row: &[f64]) -> bool {
        let mut all = vec![0.0; self.weights.len()];
        products(&self.rows, row, &mut all);
        let beside: Vec<f64> = self.positive.iter().map(|&other| all[other]).collect();
        if !self.factor.push(&beside, all[i] + self.ridge) {
            return false;
        }
        self.positive.push(i);
        loop {
            let aims: Vec<f64> = self.positive.iter().map(|&i| self.aims[i]).collect();
            let best = self.factor.solve(&aims);
            // Go from the weights as they are towards the best ones, as far as none becomes negative.
            let reach = |i: usize, best: f64| match (best > 0.0, self.weights[i]) {
                (true, _) => f64::INFINITY,
                (false, 0.0) => 0.0,
                (false, weight) => weight / (weight - best),
            };
            let reaches: Vec<f64> = self.positive.iter().zip(&best).map(|(&i, &best)| reach(i, best)).collect();
            let step = reaches.iter().copied().fold(f64::INFINITY, f64::min);
            if step == f64::INFINITY {
                self.positive.iter().zip(best).for_each(|(&i, best)| self.weights[i] = best);
                return true;
            }
            // From the last on, since those behind one that goes move up.
            for place in (0..self.positive.len()).rev() {
                let i = self.positive[place];
                if reaches[place] > step {
                    self.weights[i] += step * (best[place] - self.weights[i]);
                } else {
                    self.weights[i] = 0.0;
                    self.positive.remove(place);
                    self.factor.remove(place);
                }
            }
        }
    }

    fn residual(&self) -> Vec<f64> {
        let mut residual = self.mean.to_vec();
        for &i in &self.positive {
            let weight = self.weights[i];
            residual.iter_mut().zip(self.row(i)).for_each(|(rest, &x)| *rest -= weight * f64::from(x));
        }
        residual
    }
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Take `quota` of the members: one after the other the one with the largest product with the residual, ties to the
/// first; once that is not positive, or the residual is as good as 0, those nearest to the mean.
pub fn matched(members: &Members, quota: usize, matching: &Matching, supervisor: &Supervisor) -> Result<Matched> {
    let (n, mean) = (members.len(), members.mean()?);
    let (lengths, quota) = (members.squared_lengths()?, quota.min(n));
    let ridge = matching.ridge * lengths.iter().sum::<f64>() / n as f64;
    let (aim, longest) = (length(&mean), lengths.iter().fold(0f64, |most, &x| most.max(x)).sqrt());
    let noise = ROUNDING * aim * longest;
    let mut state = Weights {
        mean: &mean,
        ridge,
        rows: Vec::new(),
        aims: Vec::new(),
        weights: Vec::new(),
        positive: Vec::new(),
        factor: Factor::default(),
    };
    let (mut order, mut found, mut taken) = (Vec::with_capacity(quota), vec![0.0; n], vec![false; n]);
    let mut residual = mean.clone();
    while order.len() < quota
        && length(&residual) > matching.tolerance * aim
        && state.factor.len() < matching.most_weights
    {
        supervisor.check()?;
        members.products(&residual, &mut found)?;
        let left = (0..n).filter(|&i| !taken[i]);
        let best = left.max_by(|&a, &b| found[a].total_cmp(&found[b]).then(b.cmp(&a))).expect("fewer than n are taken");
        if found[best] <= noise || !state.push(&members.row(best)?, noise) {
            break;
        }
        taken[best] = true;
        order.push(best);
        residual = state.residual();
    }
    if order.len() < quota {
        members.products(&mean, &mut found)?;
        // |g - mean|^2 less |mean|^2.
        let distance = |i: usize| lengths[i] - 2.0 * found[i];
        let mut rest: Vec<usize> = (0..n).filter(|&i| !taken[i]).collect();
        rest.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        order.extend(rest.into_iter().take(quota - order.len()));
    }
    let residual = if aim > 0.0 { length(&residual) / aim } else { 0.0 };
    Ok(Matched { order, weights: state.weights, residual })
}
