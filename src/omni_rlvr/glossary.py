"""Every name that a run writes into its files, and what it means; the documentation lists them.

Nothing reads this at run time. ``tests/e2e/test_glossary.py`` runs small trainings, evaluations and
attributions and checks that each name in their files is here, and that each name here is written.
``{...}`` in a name stands for what a run gives: a reward term, a label, a subset of modalities.
"""

from __future__ import annotations

from omni_rlvr.types import NOTE_KINDS

_NOTES = {
    "cut_sound": "the sound is longer than the model's window, so that a part is not heard",
    "sound_gaps": "a part of the sound is missing; silence stands there",
    "damaged_sound": "packets of the sound cannot be decoded and count as missing",
    "scaled_sound": "samples lie beyond full scale; all are divided by one number",
    "silenced_samples": "samples are NaN or infinite and are taken for silence",
    "short": "the file holds less than its header promises, or breaks off",
    "unfinished": "the file holds more sound than its header says; all is read",
}

TRAINING = {
    "step": "The number of steps done, this one included.",
    "loss": "The loss that was minimised, mean over the updates of the step.",
    "grad_norm": "The global norm of the gradient before it was clipped, mean over the updates.",
    "learning_rate": "The learning rate of the updates.",
    "num_tokens": "Tokens of prompts and completions trained on since the run began, on all "
    "devices; a prompt counts once for each of its completions.",
    "tokens/s": "Those tokens of this step divided by its seconds.",
    "step_time": "Seconds that the step took: rollout, rewards and updates.",
    "mean_token_accuracy": "For a supervised stage, the share of target tokens that are the "
    "policy's most probable ones.",
    "policy_loss": "The loss without its KL, entropy and contrast terms.",
    "kl": "The KL to the reference by `stage.kl_estimator`, mean over tokens, in nats; only if "
    "`stage.beta` is above 0.",
    "entropy": "The entropy of the policy's next-token distribution, mean over tokens, in nats.",
    "clip_ratio/low_mean": "The share of tokens (of sequences for gspo) whose ratio is below the "
    "clip range where the advantage is negative.",
    "clip_ratio/low_min": "The least such share in one completion.",
    "clip_ratio/high_mean": "The share of tokens (of sequences for gspo) whose ratio is above the "
    "clip range where the advantage is positive.",
    "clip_ratio/high_max": "The greatest such share in one completion.",
    "clip_ratio/region_mean": "The share of tokens clipped on either side.",
    "cispo_clip_ratio": "For `stage.loss_type=cispo`, the share of tokens whose weight was "
    "clipped.",
    "reward": "The weighted sum of the reward terms, mean over completions.",
    "reward_std": "Its standard deviation over the whole batch.",
    "reward_std_within_group": "The mean of the groups' standard deviations.",
    "frac_reward_zero_std": "The share of groups whose rewards are all equal: their advantages are "
    "0.",
    "rewards/{term}/mean": "A reward term without its weight, mean over completions.",
    "rewards/{term}/std": "Its standard deviation over the batch.",
    "completions/mean_length": "The mean length of completions, in tokens.",
    "completions/min_length": "The length of the shortest one.",
    "completions/max_length": "The length of the longest one.",
    "completions/clipped_ratio": "The share of completions without an end token within "
    "`stage.sampling.max_completion_length`.",
    "completions/mean_terminated_length": "The mean length of those that ended.",
    "completions/min_terminated_length": "The length of the shortest of these.",
    "completions/max_terminated_length": "The length of the longest of these.",
    "num_resampled_groups": "Groups of equal rewards that were sampled again; only if "
    "`stage.max_resample_times` is above 0.",
    "media/failed": "Clips of the step that could not be read and were skipped.",
    **{f"media/{kind}": f"Clips of the step of which {_NOTES[kind]}." for kind in NOTE_KINDS},
    "modality/contrast_kl": "The KL of the policy to itself without `stage.contrast_modality`.",
    "modality/phi_{player}": "From the probe: the mean Shapley value of a modality for the gold "
    "label, in nats.",
    "modality/interaction": "From the probe: what both modalities give together beyond the sum of "
    "what each gives alone, in nats.",
    "modality/acc_{subset}": "From the probe: the share of clips whose most probable label under a "
    "subset of modalities is the right one.",
    "modality/agreement": "From the probe: the share of reasonings that lean to the modality with "
    "the larger Shapley value.",
    "modality/hallucination": "From the probe: the share of checkable claims that are false.",
    "modality/probe_s": "The seconds that the probe took.",
}
"""Names in metrics.jsonl, metrics.csv and at trackers; all are of all devices together."""

SCORES = {
    "num_clips": "The number of clips that were answered for.",
    "war": "Weighted average recall: the share of clips answered with the gold label, in percent.",
    "war_ci": "Its 95 % bootstrap interval over clips.",
    "uar": "Unweighted average recall: the mean recall over the classes that have clips, in "
    "percent. For question records, the mean over kinds of question.",
    "uar_ci": "Its 95 % bootstrap interval.",
    "weighted_f1": "F1 of each class weighted by its size, in percent.",
    "weighted_f1_ci": "Its 95 % bootstrap interval.",
    "chosen_war": "WAR of the labels that are most likely after the model's own reasoning.",
    "chosen_war_ci": "Its 95 % bootstrap interval.",
    "chosen_uar": "UAR of these labels.",
    "chosen_uar_ci": "Its 95 % bootstrap interval.",
    "chosen_weighted_f1": "Weighted F1 of these labels.",
    "chosen_weighted_f1_ci": "Its 95 % bootstrap interval.",
    "chosen_after_prompt": "The share of clips whose label was chosen directly after the prompt, "
    "because the reply has no answer in tags; in percent.",
    "num_trained_on": "Of an evaluation after training, the number of clips that were trained on.",
    "outcomes": "Outcome -> its number of clips; see `outcome` of a prediction.",
    "format": "The share of completions that are one think block and one answer block, in percent.",
    "outside": "The share of answers that are no label of the list, in percent.",
    "recall": "Label (or kind) -> the share of its clips answered right; null for no clips.",
    "labels": "The label list, in the order of the confusion counts.",
    "confusion": "Counts: one row per gold label, one column per answer, the last column for "
    "answers outside the list.",
    "accuracy": "For question records: the share that is right, in percent.",
    "score": "For question records: the mean score, where several letters earn their F1.",
    "unparsed": "For question records: the share whose answer cannot be read as one of its kind.",
    "kinds": "For question records: kind -> its num_clips, accuracy, score, unparsed and format.",
}
"""Names in a split's metrics.json of task=evaluate; the report's columns are ``SPLIT/war``, ..."""

ATTRIBUTION = {
    "num_clips": "The number of clips that were scored.",
    "num_whole": "Those with both modalities, over which all means are taken.",
    "v_{subset}": "The value of a subset: the probability of the gold label, or its log "
    "(`task.value`), if the policy gets this subset.",
    "v_{subset}_predicted": "The same for the label predicted from the whole clip.",
    "phi_{player}": "The Shapley value of a modality for the gold label.",
    "phi_{player}_predicted": "The same for the predicted label.",
    "interaction": "What both modalities give together beyond what each gives alone.",
    "interaction_predicted": "The same for the predicted label.",
    "accuracy_{subset}": "The share of clips whose most probable label under a subset is right.",
    "share_{player}": "A modality's share of what the policy gains by all together: the ratio of "
    "the mean Shapley values.",
    "num_swaps": "The number of pictures that were shown with another clip's sound.",
    "video": "The share of swaps answered with the label of the picture.",
    "audio": "The share of swaps answered with the label of the sound.",
    "neither": "The share of swaps answered with a third label.",
    "num_judged": "Reasonings that lean to one modality, of clips whose Shapley values do too.",
    "num_claims": "Claims of reasonings that can be checked against the clip's cues.",
    "lean": "From -1 (sound alone) to 1 (picture alone): what the words of a reasoning refer to.",
    "agreement": "The share of judged reasonings that lean to the modality with the larger value.",
    "agreement_chance": "The agreement if both leaned independently, with the same frequencies.",
    "hallucination": "The share of claims that are false.",
    "hallucination_visual": "The same of claims about the picture.",
    "hallucination_vocal": "The same of claims about the sound.",
    "same_answer": "The share of clips whose scored label is the answer that was generated.",
}
"""Names in a split's attribution.json: each is a mean with its 95 % interval, or a count."""

COMPLETION = {
    "step": "The step that sampled it.",
    "id": "The clip.",
    "label": "Its gold answer.",
    "completion": "The text up to the end token; special tokens before it are kept.",
    "reward": "The weighted sum of its terms; null if no term could judge it.",
    "advantage": "Its advantage within its group.",
    "rewards/{term}": "The score of each term, without its weight.",
}
"""A line of completions.jsonl: one completion that was trained on."""

PREDICTION = {
    "id": "The clip.",
    "label": "Its gold label.",
    "predicted": "The label that the answer names; null if it names none.",
    "correct": "Whether both are the same.",
    "well_formed": "Whether the completion is one think block and one answer block.",
    "completion": "The text.",
    "chosen": "The most likely label, where labels are scored.",
    "scored_after": "What the labels were scored after: completion (the model's own reasoning), or "
    "prompt where the reply has no answer in tags.",
    "outcome": "right, unparseable, outside or another_label where the chosen label is right, by "
    "what the generated answer is; won (only the generated answer is right) or wrong.",
    "kind": "For question records: the kind of question.",
    "score": "For question records: the score in [0, 1]; null if the answer cannot be read.",
}
"""A line of a split's predictions.jsonl of task=evaluate."""

RECORD = {
    "status": "running, finished, interrupted or failed. A run that was killed stays running.",
    "command": "The command with its arguments.",
    "started": "When it started, with the time zone.",
    "ended": "When it ended.",
    "seed": "The seed.",
    "commit": "The commit of the code, with + where files were changed; null outside a checkout.",
    "versions": "Package -> its version.",
    "python": "The version of Python.",
    "device": "What it ran on.",
    "skipped_clips": "Clips that could not be read, with the reason.",
    "clip_notes": "Clips of which the model gets something else than their files hold, and why.",
    "trackers": "Tracker -> the id of its run there.",
    "config": "The resolved config.",
    "origin": "For training: the digests of what it started from, which a resumed run must match.",
    "trainable": "For training: part -> its numbers of weights and of those that are trained.",
    "error": "For a run that failed: why.",
    "left_out": "For task=predict: files that are no clips, by reason.",
}
"""The fields of run.json."""
