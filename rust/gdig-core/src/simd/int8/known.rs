//! The int8 search that uses what the search before has learned ([`super::super::known`]).
//!
//! Let x be a row, s q_x exactly, c a centroid, m the middle and c' = t q_c the rounded centroid, so that the kernel
//! compares c^ = m + c' in place of c. Let X = |x - m|, D = |x - c|, D^ = |x - c^| and e = |c - c^|.
//!
//! - By what the score stands for, exactly (|c|^2 - |m|^2)/2 - x.c' = (D^^2 - X^2)/2 + w, where
//!   w = (c - c^).((c + c^)/2) depends on the centroid alone.
//! - The kernel rounds the offset (|c|^2 - |m|^2)/2, whose norms it has summed in float64, the product with t, and the
//!   score. So a score is off by less than b = 2^-21 (|x| C + O) + 2^-36 N + 2^-147 (|s| + 1), where no c' is longer
//!   than C, no offset larger than O, and N is |m|^2 and the largest |c|^2. |x| is at most X + |m|.
//! - So a panel whose least score is u has no D^ below sqrt(X^2 + 2 (u - b - w)) with the largest w of the panel, and no
//!   D below that less the largest e. The panel keeps a bound L of D: true distances move with the centroids alone,
//!   whatever is rounded in the next search.
//! - The score u of the former centroid is the kernel's own, bit for bit. A centroid with D > L has
//!   D^ > L - e, so its score as the kernel takes it is above u if L > sqrt(X^2 + 2 (u + b - w)) + e with the least w.
//!   The panel of the former centroid itself is never skipped: no score is above itself.
//!
//! Sums over columns are taken in float64, whose roundings `SLACK` exceeds.

use super::super::known::bounds::SLACK;
use super::super::known::rounding::{down, Rounding};
use super::super::known::{choose, KnownBlock, KnownScratch, Moves, NONE};
use super::super::multiply_add::MultiplyAdd;
use super::panels::{Dot, Int8Scratch, KnownRows, Panels};
use crate::convert::Rows;

impl<const LANES: usize> Panels<LANES> {
    pub fn n_panels(&self) -> usize {
        self.scales.len()
    }

    pub fn moves(&self, centroids: &[f32], before: Option<&[f32]>) -> Moves {
        let rounding = Rounding::new(centroids, self.dim, LANES).expect("columns as in `new`");
        Moves::rounded(centroids, before, self.dim, LANES, rounding)
    }

    /// The nearest centroids, by what is known. The compiler inlines this into the functions of an instruction set.
    ///
    /// # Safety
    /// As of `D`.
    #[inline(always)]
    pub unsafe fn assign_known<D: Dot, M: MultiplyAdd, const GROUP: usize, const REGISTERS: usize>(
        &self,
        rows: Rows,
        moves: &Moves,
        known: KnownBlock,
        labels: &mut [u32],
        (scratch, known_scratch): (&mut Int8Scratch, &mut KnownScratch),
    ) {
        let (n, dim, stride) = (labels.len(), rows.dim(), known.labels.len());
        let rounding = moves.rounding.as_ref().expect("made by `moves`");
        let (bytes, row_scales) = (bytemuck::cast_slice::<u8, i8>(rows.bytes()), rows.scales());
        let Int8Scratch { rows: memory, known: of_rows, best, .. } = scratch;
        let KnownScratch { thresholds, chosen, .. } = known_scratch;
        let block = self.load::<D>(bytes, dim, memory);
        let KnownRows { squared, bound, least: leasts } = of_rows;
        squared.clear();
        bound.clear();
        leasts.resize(n, 0.0);
        best.clear();
        thresholds.clear();
        for (i, (x, &scale)) in bytes.chunks_exact(dim).zip(row_scales).enumerate() {
            let (row, former) = (rounding.row(x, scale), known.labels[i]);
            squared.push(row.squared);
            bound.push(row.bound);
            if former == NONE {
                best.push(f32::INFINITY);
                thresholds.push(f32::INFINITY);
                labels[i] = 0;
                continue;
            }
            let k = former as usize;
            let product = dot(x, &rounding.q[k * dim..][..dim]);
            let panel = &self.scales[k / LANES];
            let score = M::of(-(product as f32 * panel.scales[k % LANES]), scale, panel.offsets[k % LANES]);
            best.push(score);
            thresholds.push(rounding.threshold(&row, score));
            labels[i] = former;
        }
        chosen.resize(n.next_multiple_of(GROUP), 0);
        let mut scores = [[0f32; LANES]; GROUP];
        for (number, panel) in self.words.chunks_exact(self.steps * LANES).enumerate() {
            let lower = &mut known.lower[number * stride..][..n];
            let n_chosen = choose(lower, moves.moved[number], thresholds, chosen);
            #[cfg(test)]
            {
                known_scratch.searched += n_chosen;
            }
            let Some(&filler) = chosen[..n_chosen].last() else { continue };
            // The last group is filled up with a row of it, which changes nothing.
            let groups = n_chosen.next_multiple_of(GROUP);
            chosen[n_chosen..groups].fill(filler);
            leasts.fill(f32::NAN);
            for group in chosen[..groups].chunks_exact(GROUP) {
                let group: [usize; GROUP] = std::array::from_fn(|r| group[r] as usize);
                let (words, starts) = block.of::<GROUP>(group);
                let sums = D::sums::<GROUP, REGISTERS, LANES>(words, starts, panel);
                let scale = group.map(|i| row_scales[i]);
                let least = D::scores::<M, GROUP, LANES>(&sums, &scale, &self.scales[number], &mut scores);
                for r in 0..GROUP {
                    let i = group[r];
                    leasts[i] = least[r];
                    if least[r] <= best[i] {
                        let lane = scores[r].iter().position(|&score| score == least[r]).unwrap_or(0);
                        let centroid = (number * LANES + lane) as u32;
                        // The former centroid may be a higher one than those with the same score.
                        let label = if least[r] < best[i] { centroid } else { labels[i].min(centroid) };
                        (best[i], labels[i]) = (least[r], label);
                    }
                }
            }
            let (lost, most) = rounding.panels[number];
            let rows = squared.iter().zip(&*bound).zip(&*leasts);
            for (lower, ((squared, bound), &least)) in lower.iter_mut().zip(rows) {
                let squared = squared * (1.0 - SLACK) + 2.0 * (f64::from(least) - bound - most);
                let now = down(squared.max(0.0).sqrt() * (1.0 - SLACK) - lost);
                *lower = if least.is_nan() { *lower } else { now };
            }
        }
        known.labels[..n].copy_from_slice(labels);
    }
}

/// q_x . q_c.
#[inline(always)]
fn dot(x: &[i8], c: &[i8]) -> i32 {
    x.iter().zip(c).map(|(&x, &c)| i32::from(x) * i32::from(c)).sum()
}
