//! The load that a model server publishes about itself, from its Prometheus text.

use culvert_wire::BackendLoad;

/// What a metric says.
#[derive(Clone, Copy)]
enum Meaning {
    Running,
    Waiting,
    /// Between 0 and 1.
    Cache,
}

/// vLLM, llama.cpp, SGLang and TGI, as their own documentation names them.
const METRICS: &[(&str, Meaning)] = &[
    ("vllm:num_requests_running", Meaning::Running),
    ("vllm:num_requests_waiting", Meaning::Waiting),
    ("vllm:kv_cache_usage_perc", Meaning::Cache),
    ("vllm:gpu_cache_usage_perc", Meaning::Cache),
    ("llamacpp:requests_processing", Meaning::Running),
    ("llamacpp:requests_deferred", Meaning::Waiting),
    ("llamacpp:kv_cache_usage_ratio", Meaning::Cache),
    ("sglang:num_running_reqs", Meaning::Running),
    ("sglang:num_queue_reqs", Meaning::Waiting),
    ("sglang:token_usage", Meaning::Cache),
    ("tgi_batch_current_size", Meaning::Running),
    ("tgi_queue_size", Meaning::Waiting),
];

/// The load, summed over engines and labels; none where the text has nothing that is known.
pub(super) fn parse(text: &str) -> Option<BackendLoad> {
    let mut load = None;
    for (meaning, value) in text.lines().filter_map(sample) {
        let load = load.get_or_insert_with(BackendLoad::default);
        match meaning {
            Meaning::Running => load.running = load.running.saturating_add(whole(value)),
            Meaning::Waiting => load.waiting = load.waiting.saturating_add(whole(value)),
            Meaning::Cache => {
                let permille = u16::try_from(whole(value * 1000.0))
                    .unwrap_or(u16::MAX)
                    .min(1000);
                load.cache_permille = load.cache_permille.max(permille);
            }
        }
    }
    load
}

/// The load of all backends of a service together.
pub(super) fn total(loads: impl IntoIterator<Item = BackendLoad>) -> Option<BackendLoad> {
    loads.into_iter().reduce(|a, b| BackendLoad {
        running: a.running.saturating_add(b.running),
        waiting: a.waiting.saturating_add(b.waiting),
        cache_permille: a.cache_permille.max(b.cache_permille),
    })
}

fn sample(line: &str) -> Option<(Meaning, f64)> {
    let name_end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    let (_, meaning) = METRICS
        .iter()
        .find(|(name, _)| *name == &line[..name_end])?;
    // A label's value may hold anything, but the labels end at the last brace.
    let after = match line.rfind('}') {
        Some(brace) => &line[brace + 1..],
        None => &line[name_end..],
    };
    let value: f64 = after.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((*meaning, value))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range before"
)]
fn whole(value: f64) -> u32 {
    value.round().clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_of_vllm_is_read() {
        let text = "\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"m}x {1\"} 3.0
vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 2.0
vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 7.0
vllm:kv_cache_usage_perc{engine=\"0\"} 0.25
vllm:kv_cache_usage_perc{engine=\"1\"} 0.9375
vllm:num_requests_running_total 99
";
        let load = parse(text).expect("a load");
        assert_eq!(
            (load.running, load.waiting, load.cache_permille),
            (5, 7, 938)
        );
    }

    #[test]
    fn other_servers_are_read_too() {
        let llamacpp = parse("llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\n");
        assert_eq!(llamacpp.map(|l| (l.running, l.waiting)), Some((1, 4)));
        let sglang = parse("sglang:num_running_reqs{a=\"b\"} 2\nsglang:token_usage 0.5\n");
        assert_eq!(
            sglang.map(|l| (l.running, l.cache_permille)),
            Some((2, 500))
        );
        let tgi = parse("tgi_queue_size 3\ntgi_batch_current_size 8\n");
        assert_eq!(tgi.map(|l| (l.running, l.waiting)), Some((8, 3)));
    }

    #[test]
    fn nonsense_is_no_load() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("process_cpu_seconds_total 1\n"), None);
        assert_eq!(
            parse("tgi_queue_size NaN\ntgi_queue_size\ntgi_queue_size -1\n"),
            None
        );
    }
}
