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
    /// The pursuit ends with this number of positive weights. The factor of their Gram matrix takes 4 bytes times its
    /// square.
    pub most_weights: usize,
}

/// A product with the residual is rounding if it is no larger than this share of the largest possible product.
const ROUNDING: f64 = 1e-12;

/// The rows of a cluster that are picked, as places in the cluster: first those of the pursuit, in its order, then the
/// nearest to the mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    pub order: Vec<usize>,
    /// The weights of the rows of the pursuit.
    pub weights: Vec<f64>,
    /// The length of the residual at the end of the pursuit, as a share of the length of the mean.
    pub residual: f64,
}

/// The rows of the pursuit and their non-negative weights, which minimise |mean - sum w_i g_i|^2 + ridge |w|^2. The
/// method is the active-set method of Lawson and Hanson (1974). `positive` has the rows with positive weights, in the
/// order of the factor.
struct Weights<'a> {
    mean: &'a [f64],
    ridge: f64,
    /// [rows, dim].
    rows: Vec<f32>,
    /// The product of each row with the mean.
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

    /// Add a row. False, and nothing changes, when the row depends on the others.
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
        // A row whose weight fell to 0 comes back if it helps now. There are finitely many sets of positive weights,
        // and each step comes nearer to the mean. The bound on the steps is for rounding.
        for _ in 0..3 * self.weights.len() {
            let residual = self.residual();
            let mut dots = vec![0.0; self.weights.len()];
            products(&self.rows, &residual, &mut dots);
            let idle = (0..dots.len()).filter(|&i| self.weights[i] == 0.0 && dots[i] > noise);
            let Some(back) = idle.max_by(|&a, &b| dots[a].total_cmp(&dots[b]).then(b.cmp(&a))) else { break };
            let wide: Vec<f64> = self.row(back).iter().map(|&x| f64::from(x)).collect();
            if !self.free(back, &wide) || self.weights[back] == 0.0 {
                break;
            }
        }
        true
    }

    /// Let the weight of row `i`, which is 0, become positive. Then compute the best weights again.
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
            // Go from the present weights towards the best ones, as far as none becomes negative.
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
            // Go backwards, because the places behind a removed one move up.
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

/// Pick `quota` of the members. Each step picks the member with the largest product with the residual, ties to the
/// first. When no product is positive, or the residual is as good as 0, the members nearest to the mean fill the quota.
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
    let (mut order, mut dots, mut taken) = (Vec::with_capacity(quota), vec![0.0; n], vec![false; n]);
    let mut residual = mean.clone();
    while order.len() < quota
        && length(&residual) > matching.tolerance * aim
        && state.factor.len() < matching.most_weights
    {
        supervisor.check()?;
        members.products(&residual, &mut dots)?;
        let open = (0..n).filter(|&i| !taken[i]);
        let best = open.max_by(|&a, &b| dots[a].total_cmp(&dots[b]).then(b.cmp(&a))).expect("fewer than n are taken");
        if dots[best] <= noise || !state.push(&members.row(best)?, noise) {
            break;
        }
        taken[best] = true;
        order.push(best);
        residual = state.residual();
    }
    if order.len() < quota {
        members.products(&mean, &mut dots)?;
        // |g - mean|^2 less |mean|^2.
        let distance = |i: usize| lengths[i] - 2.0 * dots[i];
        let mut rest: Vec<usize> = (0..n).filter(|&i| !taken[i]).collect();
        rest.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        order.extend(rest.into_iter().take(quota - order.len()));
    }
    let residual = if aim > 0.0 { length(&residual) / aim } else { 0.0 };
    Ok(Matched { order, weights: state.weights, residual })
}
