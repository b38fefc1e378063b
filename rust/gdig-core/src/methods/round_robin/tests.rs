use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Pool {
    influence: Vec<Vec<f32>>,
    valid: Vec<u8>,
    tasks: Vec<Vec<usize>>,
}

impl Pool {
    /// Each turn looks at every free row.
    fn plain(&self, budget: usize) -> Picked {
        let rows: Vec<usize> = (0..self.valid.len()).filter(|&row| self.valid[row] != 0).collect();
        let n_seeds = self.influence[0].len();
        let flat =
            |seed: usize| rows.windows(2).all(|pair| self.influence[pair[0]][seed] == self.influence[pair[1]][seed]);
        let n_flat = (0..n_seeds).filter(|&seed| flat(seed)).count();
        let mut queues: Vec<Vec<usize>> = self.tasks.clone();
        if n_flat < n_seeds {
            queues.iter_mut().for_each(|seeds| seeds.retain(|&seed| !flat(seed)));
            queues.retain(|seeds| !seeds.is_empty());
        }
        let before = |a: usize, b: usize, seed: usize| {
            let (x, y) = (self.influence[a][seed], self.influence[b][seed]);
            x > y || (x == y && a < b)
        };
        let (mut open, mut picked) = (rows.clone(), Picked { flat: n_flat, ..Picked::default() });
        while picked.rows.len() < budget && !open.is_empty() {
            // The first task and its first seed have the turn, and go to the end of their queues.
            let mut task = queues.remove(0);
            let seed = task.remove(0);
            task.push(seed);
            queues.push(task);
            let row =
                *open.iter().find(|&&row| open.iter().all(|&other| other == row || before(row, other, seed))).unwrap();
            open.retain(|&other| other != row);
            picked.rows.push(row as i64);
            picked.seeds.push(seed as u32);
            picked.ranks.push(1 + rows.iter().filter(|&&other| before(other, row, seed)).count() as u64);
            picked.values.push(self.influence[row][seed] + 0.0);
        }
        picked
    }
}

fn pools() -> impl Strategy<Value = Pool> {
    (1usize..40, 1usize..7, any::<bool>(), 1usize..4).prop_flat_map(|(n, n_seeds, few, n_tasks)| {
        let some = prop::sample::select(vec![-1.5f32, -0.0, 0.0, 0.25, 0.5, 1e-30, 3.0]);
        let number = if few { some.boxed() } else { (-1e3f32..1e3).boxed() };
        // A column times 0 is one without spread.
        let factors = prop::collection::vec(prop::sample::select(vec![0f32, 1.0, 1.0, -2.0]), n_seeds);
        let row = prop::collection::vec(number, n_seeds);
        let valid = prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 1]), n);
        let of_seed = prop::collection::vec(0..n_tasks, n_seeds);
        (prop::collection::vec(row, n), factors, valid, of_seed).prop_map(|(mut influence, factors, valid, of_seed)| {
            influence.iter_mut().for_each(|row| row.iter_mut().zip(&factors).for_each(|(x, factor)| *x *= factor));
            let members = |task| (0..of_seed.len()).filter(|&seed| of_seed[seed] == task).collect::<Vec<_>>();
            let tasks = (0..4).map(members).filter(|seeds| !seeds.is_empty()).collect();
            Pool { influence, valid, tasks }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn turns_are_those_of_the_plain_form(
        pool in pools(), budget in 0usize..45, depth in 1usize..50, most_entries in 1usize..400, n_threads in 1usize..4
    ) {
        let expected = pool.plain(budget);
        let (values, n_seeds) = (pool.influence.concat(), pool.influence[0].len());
        let influence = Influence::array(&values, n_seeds, Some(&pool.valid)).unwrap();
        let none = Supervisor::none();
        let options = Options { budget, n_threads, depth, most_entries };
        prop_assert_eq!(&round_robin(&influence, &pool.tasks, &options, &none).unwrap(), &expected);
        prop_assert_eq!(&round_robin(&influence, &pool.tasks, &Options::new(budget), &none).unwrap(), &expected);
        // A smaller budget's rows are the first of a larger one's.
        let fewer = round_robin(&influence, &pool.tasks, &Options { budget: budget / 2, ..options }, &none).unwrap();
        prop_assert_eq!(&fewer.rows[..], &expected.rows[..fewer.rows.len()]);
    }
}
