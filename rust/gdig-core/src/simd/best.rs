//! The best centroid of each row so far, lane by lane.

/// Of each row and lane, [rows, LANES], the least score and the number of its centroid.
#[derive(Default)]
pub struct Bests {
    scores: Vec<f32>,
    numbers: Vec<u32>,
}

impl Bests {
    /// No centroid yet.
    pub fn reset<const LANES: usize>(&mut self, rows: usize) {
        self.scores.clear();
        self.scores.resize(rows * LANES, f32::INFINITY);
        self.numbers.clear();
        self.numbers.resize(rows * LANES, 0);
    }

    /// Scores of a row and the centroids from `first` on. Panels come in ascending order: of equal scores in a lane the
    /// first stays.
    #[inline(always)]
    pub fn offer<const LANES: usize>(&mut self, row: usize, first: usize, scores: &[f32; LANES]) {
        let best: &mut [f32; LANES] = (&mut self.scores[row * LANES..][..LANES]).try_into().expect("LANES of them");
        let number: &mut [u32; LANES] = (&mut self.numbers[row * LANES..][..LANES]).try_into().expect("LANES of them");
        for lane in 0..LANES {
            if scores[lane] < best[lane] {
                best[lane] = scores[lane];
                number[lane] = (first + lane) as u32;
            }
        }
    }

    /// The lower centroid of those with the best score.
    pub fn labels<const LANES: usize>(&self, labels: &mut [u32]) {
        let rows = self.scores.chunks_exact(LANES).zip(self.numbers.chunks_exact(LANES));
        for (label, (scores, numbers)) in labels.iter_mut().zip(rows) {
            let lanes = scores.iter().zip(numbers).map(|(&score, &k)| (score, k));
            let lower = |a: (f32, u32), b: (f32, u32)| if b.0 < a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a };
            *label = lanes.reduce(lower).expect("LANES is not zero").1;
        }
    }
}
