//! What is subtracted from rows that lie far from the origin, so that float32 keeps what tells them apart.

/// How far the middle of a column must lie from zero, as a multiple of the column's spread, to be subtracted.
const FAR: f32 = 8.0;

/// A middle of `points` [n, dim]: of each column the lower median, or 0 if that is less than `FAR` median deviations
/// from 0. So nothing changes for points around the origin. A median is a number of the column: whole numbers stay whole
/// after the subtraction. Few points elsewhere do not move it, as they move a mean. The points are finite.
pub fn middle(points: &[f32], dim: usize) -> Vec<f32> {
    let n = points.len() / dim;
    let mut column = Vec::with_capacity(n);
    let of_column = |j: usize| {
        column.clear();
        column.extend(points.chunks_exact(dim).map(|point| point[j]));
        if n == 0 {
            return 0.0;
        }
        let median = *column.select_nth_unstable_by((n - 1) / 2, f32::total_cmp).1;
        column.iter_mut().for_each(|x| *x = (*x - median).abs());
        // The upper median, so that the spread of two points is not 0.
        let deviation = *column.select_nth_unstable_by(n / 2, f32::total_cmp).1;
        if median.abs() > FAR * deviation {
            median
        } else {
            0.0
        }
    };
    (0..dim).map(of_column).collect()
}

/// The mean of the centroids, summed in float64 in their order.
pub fn mean(centroids: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0f64; dim];
    for c in centroids.chunks_exact(dim) {
        sums.iter_mut().zip(c).for_each(|(sum, &c)| *sum += f64::from(c));
    }
    let n = (centroids.len() / dim) as f64;
    sums.into_iter().map(|sum| (sum / n) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_far_from_zero_have_a_middle() {
        let points = [1000.0f32, 0.5, -70.0, 1001.0, -0.5, -69.0, 1002.0, 0.25, 1e30];
        assert_eq!(middle(&points, 3), [1001.0, 0.0, -69.0]);
        assert_eq!(middle(&[3.0, -3.0], 1), [0.0], "a spread of 6");
        assert_eq!(middle(&[3.0, 3.25], 1), [3.0]);
        assert_eq!(middle(&[7.0, 0.0], 2), [7.0, 0.0]);
        assert_eq!(middle(&[], 2), [0.0, 0.0]);
    }
}
