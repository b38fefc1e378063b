//! The scores of GIST (arXiv 2602.18584): each row's influence on the seeds in the coordinates of the seeds' principal
//! components, and its largest cosine with a task's direction there.

use rayon::prelude::*;

use super::sorted_columns::chunk_rows;
use crate::interrupt::{Progress, Supervisor};
use crate::parallel::thread_pool;
use crate::sweep::Influence;
use crate::{Error, Result};

/// One number for each row of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The largest cosine, -inf for an invalid row.
    pub cosine: Vec<f64>,
    /// The task with this cosine; the lowest of equal ones.
    pub task: Vec<u32>,
}

/// The projection is [seeds, components], and `directions` [tasks, components] has rows of unit length. A row whose
/// coordinates are all 0 has the cosine 0. Sums are in float64, in the order of the seeds and of the components.
pub fn gist_scores(
    influence: &Influence,
    projection: &[f64],
    directions: &[f64],
    n_components: usize,
    n_threads: usize,
    supervisor: &Supervisor,
) -> Result<Scores> {
    let (n, n_seeds) = (influence.len(), influence.n_seeds());
    if n_components == 0 || projection.len() != n_seeds * n_components || !directions.len().is_multiple_of(n_components)
    {
        let what = format!("projection: expected [{n_seeds}, components] and directions [tasks, components]");
        return Err(Error::input(what));
    }
    let score = |row: &[f32]| -> (f64, u32) {
        let mut coordinates = vec![0f64; n_components];
        for (&x, line) in row.iter().zip(projection.chunks_exact(n_components)) {
            coordinates.iter_mut().zip(line).for_each(|(sum, &w)| *sum += f64::from(x) * w);
        }
        let dot = |b: &[f64]| coordinates.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let length = dot(&coordinates).sqrt();
        let cosines = directions.chunks_exact(n_components).map(|b| if length > 0.0 { dot(b) / length } else { 0.0 });
        let better = |best: (f64, u32), (cosine, task)| if cosine > best.0 { (cosine, task) } else { best };
        cosines.zip(0..).fold((f64::NEG_INFINITY, 0), better)
    };
    let mut scores = Scores { cosine: vec![f64::NEG_INFINITY; n], task: vec![0; n] };
    thread_pool(n_threads)?.install(|| {
        for start in (0..n).step_by(chunk_rows(n_seeds)) {
            supervisor.check()?;
            supervisor.report(Progress::Rows { done: start, total: n });
            let made = influence.with_rows(start..n.min(start + chunk_rows(n_seeds)), |rows| {
                let score_row = |&(row, values): &(usize, &[f32])| match values.iter().position(|x| !x.is_finite()) {
                    Some(seed) => Err(influence.bad(row, seed, values[seed])),
                    None => Ok((row, score(values))),
                };
                rows.par_iter().map(score_row).collect::<Vec<Result<_>>>()
            })?;
            for line in made {
                let (row, (cosine, task)) = line?;
                (scores.cosine[row], scores.task[row]) = (cosine, task);
            }
        }
        Ok(scores)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_those_of_the_projected_rows() {
        let influence = [1.0f32, 2.0, 0.0, 0.0, -3.0, 1.0, f32::NAN, 1.0];
        let valid = [1, 1, 1, 0];
        let matrix = Influence::array(&influence, 2, Some(&valid)).unwrap();
        let (projection, directions) = ([1.0, 0.5, 0.0, 2.0], [1.0, 0.0, 0.6, 0.8, 0.0, -1.0]);
        let scores = gist_scores(&matrix, &projection, &directions, 2, 1, &Supervisor::none()).unwrap();
        // Rows in the new coordinates: (1, 4.5), (0, 0) and (-3, 0.5).
        let expected = [(0.6 + 0.8 * 4.5) / (1f64 + 4.5 * 4.5).sqrt(), 0.0, -0.5 / (9f64 + 0.25).sqrt()];
        for (got, expected) in scores.cosine.iter().zip(expected) {
            assert!((got - expected).abs() <= 4.0 * f64::EPSILON, "{got} {expected}");
        }
        assert_eq!(scores.cosine[3], f64::NEG_INFINITY);
        assert_eq!(scores.task, [1, 0, 2, 0]);
        let several = gist_scores(&matrix, &projection, &directions, 2, 3, &Supervisor::none()).unwrap();
        assert_eq!(several, scores);
        let all = Influence::array(&influence, 2, None).unwrap();
        let error = gist_scores(&all, &projection, &directions, 2, 1, &Supervisor::none()).unwrap_err().to_string();
        assert_eq!(error, "row 3: influence on seed 0: expected a finite number, got NaN");
        assert!(gist_scores(&matrix, &projection[..3], &directions, 2, 1, &Supervisor::none()).is_err());
    }
}
