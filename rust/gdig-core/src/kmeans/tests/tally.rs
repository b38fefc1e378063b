use proptest::prelude::*;

use super::*;
use crate::hash::row_hash;
use crate::kmeans::tally::{BadRow, Isa, Tally};
use crate::rows::distances::squared_distance;

/// A tally of `labels` by each instruction set, against the definition in plain float32.
fn check(rows: Rows, labels: &[u32], c: &[f32], offset: &[f32]) {
    let dim = rows.dim();
    let mut decoded = vec![0f32; labels.len() * dim];
    rows.decode(&mut decoded);
    // Sums go on from those of an earlier block.
    let earlier = data(c.len() / dim, dim, 2, 8);
    let mut expected = earlier.clone();
    for (x, &label) in decoded.chunks(dim).zip(labels) {
        let sums = expected[label as usize * dim..][..dim].iter_mut();
        sums.zip(x).zip(offset).for_each(|((sum, x), offset)| *sum += x - offset);
    }
    let nearest = decoded.chunks(dim).zip(labels).map(|(x, &l)| squared_distance(x, &c[l as usize * dim..][..dim]));
    let nearest: Vec<f32> = nearest.collect();
    for isa in Isa::available() {
        let (mut tally, mut sums) = (Tally::new(Some(isa)), earlier.clone());
        tally.add(rows, labels, c, offset, &mut sums).unwrap();
        assert_eq!(
            (bits(&sums), bits(&tally.distances)),
            (bits(&expected), bits(&nearest)),
            "{isa:?} {:?}",
            rows.dtype()
        );
        tally.measure(rows, labels, c).unwrap();
        assert_eq!(bits(&tally.distances), bits(&nearest), "{isa:?} {:?}", rows.dtype());
    }
}

fn bits(of: &[f32]) -> Vec<u32> {
    of.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 256 }, ..ProptestConfig::default() })]

    /// What a tally takes depends neither on the instruction set it is compiled for, nor on whether rows go centroid by
    /// centroid, as many of few centroids do, or in order, as few of many do. Some centroids have no row.
    #[test]
    fn tallies_agree_to_the_last_bit(
        n in 0usize..60, dim in 1usize..100, k in 1usize..40, scale in prop::sample::select(&[0, 0, -12, -70, 40][..]),
        dtype in prop::sample::select(&DTYPES[..]), random_seed in any::<u64>()
    ) {
        let scale = if dtype == Dtype::F16 { scale.clamp(-12, 0) } else { scale };
        let at = |v: Vec<f32>| v.into_iter().map(|v| v * 2f32.powi(scale)).collect::<Vec<_>>();
        let (x, c) = (at(data(n, dim, 5, random_seed)), at(data(k, dim, 3, random_seed ^ 1)));
        let offset = at(data(1, dim, 1, random_seed ^ 2));
        let label = |i: usize| (row_hash(random_seed, i as u64) % k.div_ceil(2) as u64) as u32;
        let labels: Vec<u32> = (0..n).map(label).collect();
        check(Stored::new(&x, dim, dtype).rows(), &labels, &c, &offset);
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x) * (1.0 + 1e-9)).collect();
        check(Rows::new(Dtype::F64, dim, cast_slice(&wide), &[]).unwrap(), &labels, &c, &offset);
    }
}

/// Of rows that are not finite the first is named, whichever centroid it goes to.
#[test]
fn the_first_bad_row_is_named() {
    for k in [2, 20] {
        let (mut x, c) = (data(20, 3, 5, 1), data(k, 3, 3, 2));
        let labels: Vec<u32> = (0..20).map(|i| u32::from(i < 10)).collect();
        (x[7 * 3 + 1], x[15 * 3]) = (f32::NAN, f32::INFINITY);
        let rows = Rows::new(Dtype::F32, 3, cast_slice(&x), &[]).unwrap();
        let (mut tally, mut sums) = (Tally::new(None), vec![0f32; c.len()]);
        assert_eq!(tally.add(rows, &labels, &c, &[0.0; 3], &mut sums), Err(BadRow(7)));
        assert_eq!(tally.measure(rows, &labels, &c), Err(BadRow(7)));
    }
}
