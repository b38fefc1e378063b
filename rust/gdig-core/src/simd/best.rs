//! The best centroid of each row so far, lane by lane.

use super::aligned::Aligned;

/// Of each row and lane, [rows, LANES], the least score and the number of its centroid.
#[derive(Default)]
pub struct Bests {
    scores: Aligned<f32>,
    numbers: Aligned<u32>,
}

/// Scores of a row and the centroids from `first` on, for the best of the row so far. Panels come in ascending order: of
/// equal scores in a lane the first stays.
#[inline(always)]
pub fn offer<const LANES: usize>(
    (best, number): (&mut [f32; LANES], &mut [u32; LANES]),
    first: u32,
    scores: &[f32; LANES],
) {
    for lane in 0..LANES {
        // Written in any case: a masked store is slow on some chips.
        let better = scores[lane] < best[lane];
        best[lane] = if better { scores[lane] } else { best[lane] };
        number[lane] = if better { first + lane as u32 } else { number[lane] };
    }
}

impl Bests {
    /// No centroid yet.
    pub fn reset<const LANES: usize>(&mut self, rows: usize) {
        self.scores.reset(rows * LANES, f32::INFINITY);
        self.numbers.reset(rows * LANES, 0);
    }

    /// The scores and the numbers of `n` rows from `first` on.
    #[inline(always)]
    pub fn rows<const LANES: usize>(
        &mut self,
        first: usize,
        n: usize,
    ) -> impl Iterator<Item = (&mut [f32; LANES], &mut [u32; LANES])> {
        let span = first * LANES..(first + n) * LANES;
        let scores = self.scores[span.clone()].as_chunks_mut().0.iter_mut();
        scores.zip(self.numbers[span].as_chunks_mut().0.iter_mut())
    }

    /// The scores and the numbers of a row.
    pub fn of<const LANES: usize>(&self, row: usize) -> (&[f32; LANES], &[u32; LANES]) {
        let (scores, numbers) = (&self.scores[row * LANES..][..LANES], &self.numbers[row * LANES..][..LANES]);
        (scores.try_into().expect("LANES of them"), numbers.try_into().expect("LANES of them"))
    }

    /// `offer` to a row.
    #[inline(always)]
    pub fn offer<const LANES: usize>(&mut self, row: usize, first: usize, scores: &[f32; LANES]) {
        offer(self.rows(row, 1).next().expect("one row"), first as u32, scores);
    }

    /// The lower centroid of those with the best score.
    pub fn labels<const LANES: usize>(&self, labels: &mut [u32]) {
        let rows = self.scores.chunks_exact(LANES).zip(self.numbers.chunks_exact(LANES));
        for (label, (scores, numbers)) in labels.iter_mut().zip(rows) {
            let scores: &[f32; LANES] = scores.try_into().expect("LANES of them");
            let numbers: &[u32; LANES] = numbers.try_into().expect("LANES of them");
            let best = least_of(*scores);
            let mut lower = [u32::MAX; LANES];
            for lane in 0..LANES {
                lower[lane] = if scores[lane] == best { numbers[lane] } else { u32::MAX };
            }
            *label = lower.into_iter().fold(u32::MAX, u32::min);
        }
    }
}

/// `LANES` is a power of two.
#[inline(always)]
pub fn least_of<const LANES: usize>(mut scores: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            scores[lane] = if scores[lane + half] < scores[lane] { scores[lane + half] } else { scores[lane] };
        }
        half /= 2;
    }
    scores[0]
}
