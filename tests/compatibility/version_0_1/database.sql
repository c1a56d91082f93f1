BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE audit (
	seq INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	actor VARCHAR(128) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	target VARCHAR(128) NOT NULL, 
	outcome TEXT NOT NULL, 
	detail JSON NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (seq)
);
CREATE TABLE jobs (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	owner VARCHAR(128) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	priority INTEGER NOT NULL, 
	spec JSON NOT NULL, 
	gpus FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	attempt INTEGER NOT NULL, 
	restarts INTEGER NOT NULL, 
	max_restarts INTEGER NOT NULL, 
	cause TEXT, 
	run_dir TEXT NOT NULL, 
	submission_id VARCHAR(128), 
	not_before DATETIME, 
	cancel_requested_at DATETIME, 
	preempt_requested_at DATETIME, 
	idempotency_key VARCHAR(255), 
	body_hash VARCHAR(64) NOT NULL, 
	CONSTRAINT uq_jobs_id UNIQUE (id), 
	CONSTRAINT uq_jobs_owner_idempotency_key UNIQUE (owner, idempotency_key)
);
INSERT INTO "jobs" VALUES(1,'a28800ff09384cbc','before-rooms','anna','succeeded',0,'{"name": "before-rooms", "seed": 7, "deterministic": false, "method": "reinforce", "steps": 3, "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 256, "too_long": "refuse"}, "data": {"train": "builtin:synthetic", "evaluation": "builtin:synthetic", "format": "auto", "columns": {}, "audio_root": null, "evaluation_format": "auto", "evaluation_columns": {}, "evaluation_audio_root": null, "prompt": "2", "shuffle": true, "unlabelled": false, "curriculum": {"order": "learnable", "measured": null, "min_solve_rate": 0.0, "max_solve_rate": 1.0, "uniform": 0.1}, "synthetic_train": 40, "synthetic_train_categories": [], "synthetic_evaluation": 10}, "warm_start": {"steps": 2, "batch_size": 4, "questions": 8, "optimizer": {"learning_rate": 0.0005, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}}, "supervised": {"batch_size": 16}, "rollout": {"workers": 1, "group_size": 4, "questions_per_step": 2, "max_staleness": 0, "max_refills": 3, "max_tokens": 8, "temperature": 1.0, "max_concurrent": 128, "threads": 0, "gpus": 0.0, "gpu_memory_fraction": 0.85, "cpu_kv_gib": 1, "weight_sync": "shared_memory", "weight_checksums": false, "autoscale": null, "limits": {"start_seconds": 900.0, "request_seconds": 1800.0, "update_seconds": 900.0, "lag_seconds": 60.0, "silent_seconds": 60.0, "drain_seconds": 60.0, "attempts": 4, "max_restarts": 20, "max_failed_in_row": 64}}, "reward": {"functions": {"accuracy": 1.0, "format": 0.5}, "length": null, "judge": null, "timeout_seconds": 10.0, "allowed_modules": [], "processes": 1, "max_restarts": 5, "max_unscored_in_row": 10, "overlong_tokens": 0}, "learner": {"ranks": 1, "zero_stage": 0, "offload_optimizer": false, "offload_parameters": false, "dtype": "float32", "activation_checkpointing": false, "compile": false, "train": {"audio_tower": true, "projector": true, "language_model": true}, "lora": null, "beta": 0.04, "loss": {"algorithm": "dr_grpo", "advantage": "centred", "aggregate": "constant", "clip_low": 0.2, "clip_high": 0.2, "kl": "k3", "mask_truncated": false, "dynamic_sampling": false, "updates_per_batch": 1, "correction": {"level": "none", "mode": "truncate", "bound": 2.0}}, "optimizer": {"learning_rate": 0.0003, "schedule": "linear", "warmup_steps": 1, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}, "micro_batch_tokens": 16384, "share_prefix": "auto", "audio_cache": {"memory_gib": 1.0, "folder": null}, "threads": 0, "timeout_seconds": 1800.0, "max_restarts": 3, "max_nonfinite_steps": 3}, "evaluation": {"every": 1, "questions": 0, "controls": ["silence"], "samples": 1, "temperature": 0.0}, "checkpoint": {"every": 1, "keep_last": 2, "keep_best": true}, "storage": null, "cluster": {"address": null, "gpu": "A100-80GB"}, "tracking": {"wandb": null, "mlflow": null}}',0.0,'2026-11-28 22:40:01.125373','2026-11-28 22:40:01.158176','2026-11-28 22:40:01.142463','2026-11-28 22:40:01.158176',1,0,3,NULL,'/data/earshot/runs/a28800ff09384cbc','a28800ff09384cbc-1',NULL,NULL,NULL,'first','a1d278cbc9b5c9976f4d8c6e4995d14586b61e893f1a3d44d0657414c7be7407');
INSERT INTO "jobs" VALUES(2,'5fb8173b908240dc','waits','ben','queued',5,'{"name": "waits", "seed": 7, "deterministic": false, "method": "reinforce", "steps": 3, "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 256, "too_long": "refuse"}, "data": {"train": "builtin:synthetic", "evaluation": "builtin:synthetic", "format": "auto", "columns": {}, "audio_root": null, "evaluation_format": "auto", "evaluation_columns": {}, "evaluation_audio_root": null, "prompt": "2", "shuffle": true, "unlabelled": false, "curriculum": {"order": "learnable", "measured": null, "min_solve_rate": 0.0, "max_solve_rate": 1.0, "uniform": 0.1}, "synthetic_train": 40, "synthetic_train_categories": [], "synthetic_evaluation": 10}, "warm_start": {"steps": 2, "batch_size": 4, "questions": 8, "optimizer": {"learning_rate": 0.0005, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}}, "supervised": {"batch_size": 16}, "rollout": {"workers": 1, "group_size": 4, "questions_per_step": 2, "max_staleness": 0, "max_refills": 3, "max_tokens": 8, "temperature": 1.0, "max_concurrent": 128, "threads": 0, "gpus": 0.0, "gpu_memory_fraction": 0.85, "cpu_kv_gib": 1, "weight_sync": "shared_memory", "weight_checksums": false, "autoscale": null, "limits": {"start_seconds": 900.0, "request_seconds": 1800.0, "update_seconds": 900.0, "lag_seconds": 60.0, "silent_seconds": 60.0, "drain_seconds": 60.0, "attempts": 4, "max_restarts": 20, "max_failed_in_row": 64}}, "reward": {"functions": {"accuracy": 1.0, "format": 0.5}, "length": null, "judge": null, "timeout_seconds": 10.0, "allowed_modules": [], "processes": 1, "max_restarts": 5, "max_unscored_in_row": 10, "overlong_tokens": 0}, "learner": {"ranks": 1, "zero_stage": 0, "offload_optimizer": false, "offload_parameters": false, "dtype": "float32", "activation_checkpointing": false, "compile": false, "train": {"audio_tower": true, "projector": true, "language_model": true}, "lora": null, "beta": 0.04, "loss": {"algorithm": "dr_grpo", "advantage": "centred", "aggregate": "constant", "clip_low": 0.2, "clip_high": 0.2, "kl": "k3", "mask_truncated": false, "dynamic_sampling": false, "updates_per_batch": 1, "correction": {"level": "none", "mode": "truncate", "bound": 2.0}}, "optimizer": {"learning_rate": 0.0003, "schedule": "linear", "warmup_steps": 1, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}, "micro_batch_tokens": 16384, "share_prefix": "auto", "audio_cache": {"memory_gib": 1.0, "folder": null}, "threads": 0, "timeout_seconds": 1800.0, "max_restarts": 3, "max_nonfinite_steps": 3}, "evaluation": {"every": 1, "questions": 0, "controls": ["silence"], "samples": 1, "temperature": 0.0}, "checkpoint": {"every": 1, "keep_last": 2, "keep_best": true}, "storage": null, "cluster": {"address": null, "gpu": "A100-80GB"}, "tracking": {"wandb": null, "mlflow": null}}',0.0,'2026-11-28 22:40:01.133728','2026-11-28 22:40:01.133728',NULL,NULL,0,0,3,NULL,'/data/earshot/runs/5fb8173b908240dc',NULL,NULL,NULL,NULL,NULL,'a3ac2c1720a4cbff445afac60abdbbc72ae8d720442fd109f6ba5c33de4b86a2');
INSERT INTO "jobs" VALUES(3,'fa7dcc3f74ee418d','failed','anna','failed',0,'{"name": "failed", "seed": 7, "deterministic": false, "method": "reinforce", "steps": 3, "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 256, "too_long": "refuse"}, "data": {"train": "builtin:synthetic", "evaluation": "builtin:synthetic", "format": "auto", "columns": {}, "audio_root": null, "evaluation_format": "auto", "evaluation_columns": {}, "evaluation_audio_root": null, "prompt": "2", "shuffle": true, "unlabelled": false, "curriculum": {"order": "learnable", "measured": null, "min_solve_rate": 0.0, "max_solve_rate": 1.0, "uniform": 0.1}, "synthetic_train": 40, "synthetic_train_categories": [], "synthetic_evaluation": 10}, "warm_start": {"steps": 2, "batch_size": 4, "questions": 8, "optimizer": {"learning_rate": 0.0005, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}}, "supervised": {"batch_size": 16}, "rollout": {"workers": 1, "group_size": 4, "questions_per_step": 2, "max_staleness": 0, "max_refills": 3, "max_tokens": 8, "temperature": 1.0, "max_concurrent": 128, "threads": 0, "gpus": 0.0, "gpu_memory_fraction": 0.85, "cpu_kv_gib": 1, "weight_sync": "shared_memory", "weight_checksums": false, "autoscale": null, "limits": {"start_seconds": 900.0, "request_seconds": 1800.0, "update_seconds": 900.0, "lag_seconds": 60.0, "silent_seconds": 60.0, "drain_seconds": 60.0, "attempts": 4, "max_restarts": 20, "max_failed_in_row": 64}}, "reward": {"functions": {"accuracy": 1.0, "format": 0.5}, "length": null, "judge": null, "timeout_seconds": 10.0, "allowed_modules": [], "processes": 1, "max_restarts": 5, "max_unscored_in_row": 10, "overlong_tokens": 0}, "learner": {"ranks": 1, "zero_stage": 0, "offload_optimizer": false, "offload_parameters": false, "dtype": "float32", "activation_checkpointing": false, "compile": false, "train": {"audio_tower": true, "projector": true, "language_model": true}, "lora": null, "beta": 0.04, "loss": {"algorithm": "dr_grpo", "advantage": "centred", "aggregate": "constant", "clip_low": 0.2, "clip_high": 0.2, "kl": "k3", "mask_truncated": false, "dynamic_sampling": false, "updates_per_batch": 1, "correction": {"level": "none", "mode": "truncate", "bound": 2.0}}, "optimizer": {"learning_rate": 0.0003, "schedule": "linear", "warmup_steps": 1, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-08, "max_grad_norm": 1.0}, "micro_batch_tokens": 16384, "share_prefix": "auto", "audio_cache": {"memory_gib": 1.0, "folder": null}, "threads": 0, "timeout_seconds": 1800.0, "max_restarts": 3, "max_nonfinite_steps": 3}, "evaluation": {"every": 1, "questions": 0, "controls": ["silence"], "samples": 1, "temperature": 0.0}, "checkpoint": {"every": 1, "keep_last": 2, "keep_best": true}, "storage": null, "cluster": {"address": null, "gpu": "A100-80GB"}, "tracking": {"wandb": null, "mlflow": null}}',0.0,'2026-11-28 22:40:01.136957','2026-11-28 22:40:01.182138','2026-11-28 22:40:01.162133','2026-11-28 22:40:01.182138',1,0,3,'RuntimeError: gone','/data/earshot/runs/fa7dcc3f74ee418d','fa7dcc3f74ee418d-1',NULL,NULL,NULL,NULL,'dd07c2f9a4135e1335b3d258f93fcd4c96f5b27799081b3012eaa2606c474191');
CREATE TABLE tokens (
	seq INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	owner VARCHAR(128) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	hash VARCHAR(128) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	CONSTRAINT pk_tokens PRIMARY KEY (seq), 
	CONSTRAINT uq_tokens_hash UNIQUE (hash), 
	CONSTRAINT uq_tokens_id UNIQUE (id)
);
INSERT INTO "tokens" VALUES(1,'1a90503e75944213','notebook','anna','viewer','5770bdfc5ecac1dea6c0e374a652a92b97d20a1a01c28afdbe3813c676922d9e','2026-11-28 22:40:01.188115',NULL,NULL);
CREATE TABLE transitions (
	seq INTEGER NOT NULL, 
	job_id VARCHAR(64) NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16) NOT NULL, 
	at DATETIME NOT NULL, 
	cause TEXT, 
	CONSTRAINT pk_transitions PRIMARY KEY (seq), 
	CONSTRAINT fk_transitions_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "transitions" VALUES(1,'a28800ff09384cbc',NULL,'queued','2026-11-28 22:40:01.125373',NULL);
INSERT INTO "transitions" VALUES(2,'5fb8173b908240dc',NULL,'queued','2026-11-28 22:40:01.133728',NULL);
INSERT INTO "transitions" VALUES(3,'fa7dcc3f74ee418d',NULL,'queued','2026-11-28 22:40:01.136957',NULL);
INSERT INTO "transitions" VALUES(4,'a28800ff09384cbc','queued','starting','2026-11-28 22:40:01.142470',NULL);
INSERT INTO "transitions" VALUES(5,'a28800ff09384cbc','starting','running','2026-11-28 22:40:01.147091',NULL);
INSERT INTO "transitions" VALUES(6,'a28800ff09384cbc','running','paused','2026-11-28 22:40:01.151252',NULL);
INSERT INTO "transitions" VALUES(7,'a28800ff09384cbc','paused','running','2026-11-28 22:40:01.154774',NULL);
INSERT INTO "transitions" VALUES(8,'a28800ff09384cbc','running','succeeded','2026-11-28 22:40:01.158176',NULL);
INSERT INTO "transitions" VALUES(9,'fa7dcc3f74ee418d','queued','starting','2026-11-28 22:40:01.162140',NULL);
INSERT INTO "transitions" VALUES(10,'fa7dcc3f74ee418d','starting','recovering','2026-11-28 22:40:01.165497',NULL);
INSERT INTO "transitions" VALUES(11,'fa7dcc3f74ee418d','recovering','running','2026-11-28 22:40:01.175410',NULL);
INSERT INTO "transitions" VALUES(12,'fa7dcc3f74ee418d','running','failed','2026-11-28 22:40:01.182138','RuntimeError: gone');
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_jobs_name_seq ON jobs (name, seq);
CREATE INDEX ix_jobs_owner_seq ON jobs (owner, seq);
CREATE INDEX ix_jobs_state_seq ON jobs (state, seq);
CREATE INDEX ix_transitions_job_id ON transitions (job_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',3);
COMMIT;
