"""The completions of the training problems, before they are graded: what `rollouts` and `import-rollouts` write."""

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),  # of the completion, in the base's tokenizer
        ("log_prob", pa.float64()),  # nats, summed, under the sampling policy; null where that is not known
        ("token_log_probs", pa.list_(pa.float32())),  # null where the generator has another tokenizer
        ("finish_reason", pa.string()),  # "stop" or "length"
    ]
)
