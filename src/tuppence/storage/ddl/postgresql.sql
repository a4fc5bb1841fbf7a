-- Made by `make ddl` from the models. Do not edit.
CREATE TABLE api_usage_log (
    id BIGSERIAL NOT NULL,
    occurred_at_micros BIGINT NOT NULL,
    attribution_ref INTEGER NOT NULL,
    session_ref INTEGER,
    model_ref INTEGER NOT NULL,
    price_ref INTEGER,
    input_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    cache_write_other_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    input_cost_nanos BIGINT NOT NULL,
    cache_write_cost_nanos BIGINT NOT NULL,
    cache_read_cost_nanos BIGINT NOT NULL,
    output_cost_nanos BIGINT NOT NULL,
    other_cost_nanos BIGINT NOT NULL,
    cache_savings_nanos BIGINT NOT NULL,
    request_count SMALLINT NOT NULL,
    unpriced_count SMALLINT NOT NULL,
    incomplete_count SMALLINT NOT NULL,
    terms VARCHAR(255),
    other_units TEXT,
    corrects_ref BIGINT,
    idempotency_key BYTEA,
    part SMALLINT NOT NULL,
    fingerprint BIGINT NOT NULL,
    CONSTRAINT pk_api_usage_log PRIMARY KEY (id)
);
CREATE INDEX ix_api_usage_log_corrects ON api_usage_log (corrects_ref) WHERE corrects_ref IS NOT NULL;
CREATE INDEX ix_api_usage_log_occurred_at_micros ON api_usage_log (occurred_at_micros);
CREATE INDEX ix_api_usage_log_unpriced ON api_usage_log (model_ref) WHERE unpriced_count > 0;
CREATE UNIQUE INDEX uq_api_usage_log_key ON api_usage_log (idempotency_key, part) WHERE idempotency_key IS NOT NULL;
CREATE TABLE applied_prices (
    id SERIAL NOT NULL,
    digest BYTEA NOT NULL,
    provider VARCHAR(64) NOT NULL,
    model VARCHAR(255) NOT NULL,
    terms VARCHAR(255) NOT NULL,
    rates TEXT NOT NULL,
    source TEXT NOT NULL,
    CONSTRAINT pk_applied_prices PRIMARY KEY (id),
    CONSTRAINT uq_applied_prices_digest UNIQUE (digest)
);
CREATE TABLE budget_counters (
    budget_ref INTEGER NOT NULL,
    period_start_micros BIGINT NOT NULL,
    used_low_nanos BIGINT NOT NULL,
    used_normal_nanos BIGINT NOT NULL,
    used_high_nanos BIGINT NOT NULL,
    used_critical_nanos BIGINT NOT NULL,
    held_nanos BIGINT NOT NULL,
    unresolved_nanos BIGINT NOT NULL,
    raised_nanos BIGINT NOT NULL,
    settled_count BIGINT NOT NULL,
    CONSTRAINT pk_budget_counters PRIMARY KEY (budget_ref, period_start_micros)
);
CREATE TABLE budget_holds (
    id BIGINT NOT NULL,
    idempotency_key BYTEA,
    state VARCHAR(12) NOT NULL,
    priority SMALLINT NOT NULL,
    bound_nanos BIGINT NOT NULL,
    certain_nanos BIGINT NOT NULL,
    amounts TEXT NOT NULL,
    scope TEXT NOT NULL,
    throttler_ref INTEGER,
    waits_on_ref INTEGER,
    created_at_micros BIGINT NOT NULL,
    expires_at_micros BIGINT NOT NULL,
    ended_at_micros BIGINT,
    settled_nanos BIGINT,
    corrects_ref BIGINT,
    CONSTRAINT pk_budget_holds PRIMARY KEY (id)
);
CREATE INDEX ix_budget_holds_corrects ON budget_holds (corrects_ref) WHERE corrects_ref IS NOT NULL;
CREATE INDEX ix_budget_holds_ended ON budget_holds (ended_at_micros) WHERE ended_at_micros IS NOT NULL;
CREATE INDEX ix_budget_holds_open ON budget_holds (expires_at_micros) WHERE ended_at_micros IS NULL;
CREATE INDEX ix_budget_holds_waiting ON budget_holds (waits_on_ref, priority, created_at_micros) WHERE waits_on_ref IS NOT NULL;
CREATE UNIQUE INDEX uq_budget_holds_key ON budget_holds (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE budget_paces (
    budget_ref INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    due_micros BIGINT NOT NULL,
    CONSTRAINT pk_budget_paces PRIMARY KEY (budget_ref, priority)
);
CREATE TABLE budget_version (
    id INTEGER NOT NULL,
    version BIGINT NOT NULL,
    CONSTRAINT pk_budget_version PRIMARY KEY (id)
);
CREATE TABLE budget_workers (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    started_at_micros BIGINT NOT NULL,
    CONSTRAINT pk_budget_workers PRIMARY KEY (id)
);
CREATE TABLE contract_prices (
    id SERIAL NOT NULL,
    provider VARCHAR(64) NOT NULL,
    model VARCHAR(255) NOT NULL,
    price_key VARCHAR(64) NOT NULL,
    dollars VARCHAR(40) NOT NULL,
    starts_at_micros BIGINT NOT NULL,
    created_at_micros BIGINT NOT NULL,
    CONSTRAINT pk_contract_prices PRIMARY KEY (id)
);
CREATE TABLE cost_budgets (
    id SERIAL NOT NULL,
    entity_type VARCHAR(16) NOT NULL,
    entity_id VARCHAR(255) NOT NULL,
    period VARCHAR(16) NOT NULL,
    window_seconds BIGINT NOT NULL,
    time_zone VARCHAR(64) NOT NULL,
    limit_nanos BIGINT NOT NULL,
    mode VARCHAR(16) NOT NULL,
    warning_threshold FLOAT NOT NULL,
    critical_threshold FLOAT NOT NULL,
    critical_ceiling FLOAT NOT NULL,
    overdraft_share FLOAT NOT NULL,
    reserved_shares VARCHAR(64) NOT NULL,
    paused SMALLINT NOT NULL,
    created_at_micros BIGINT NOT NULL,
    CONSTRAINT pk_cost_budgets PRIMARY KEY (id),
    CONSTRAINT uq_cost_budgets_entity_type_entity_id_period_window_seconds UNIQUE (entity_type, entity_id, period, window_seconds)
);
CREATE TABLE gateway_keys (
    id VARCHAR(16) NOT NULL,
    digest BYTEA NOT NULL,
    team VARCHAR(255) NOT NULL,
    project VARCHAR(255) NOT NULL,
    user_name VARCHAR(255) NOT NULL,
    models TEXT NOT NULL,
    created_at_micros BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    revoked_at_micros BIGINT,
    revoked_by VARCHAR(255),
    CONSTRAINT pk_gateway_keys PRIMARY KEY (id),
    CONSTRAINT uq_gateway_keys_digest UNIQUE (digest)
);
CREATE TABLE models (
    id SERIAL NOT NULL,
    provider VARCHAR(64) NOT NULL,
    name VARCHAR(255) NOT NULL,
    CONSTRAINT pk_models PRIMARY KEY (id),
    CONSTRAINT uq_models_provider_name UNIQUE (provider, name)
);
CREATE TABLE people (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    CONSTRAINT pk_people PRIMARY KEY (id),
    CONSTRAINT uq_people_name UNIQUE (name)
);
CREATE TABLE projects (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    CONSTRAINT pk_projects PRIMARY KEY (id),
    CONSTRAINT uq_projects_name UNIQUE (name)
);
CREATE TABLE sessions (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    agent VARCHAR(255) NOT NULL,
    CONSTRAINT pk_sessions PRIMARY KEY (id),
    CONSTRAINT uq_sessions_name_agent UNIQUE (name, agent)
);
CREATE TABLE tags (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    CONSTRAINT pk_tags PRIMARY KEY (id),
    CONSTRAINT uq_tags_name UNIQUE (name)
);
CREATE TABLE teams (
    id SERIAL NOT NULL,
    name VARCHAR(255) NOT NULL,
    CONSTRAINT pk_teams PRIMARY KEY (id),
    CONSTRAINT uq_teams_name UNIQUE (name)
);
CREATE TABLE usage_daily (
    day INTEGER NOT NULL,
    attribution_ref INTEGER NOT NULL,
    model_ref INTEGER NOT NULL,
    request_count BIGINT NOT NULL,
    unpriced_count BIGINT NOT NULL,
    incomplete_count BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    cache_write_other_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    input_cost_nanos BIGINT NOT NULL,
    cache_write_cost_nanos BIGINT NOT NULL,
    cache_read_cost_nanos BIGINT NOT NULL,
    output_cost_nanos BIGINT NOT NULL,
    other_cost_nanos BIGINT NOT NULL,
    cache_savings_nanos BIGINT NOT NULL,
    CONSTRAINT pk_usage_daily PRIMARY KEY (day, attribution_ref, model_ref)
);
CREATE TABLE usage_daily_by_project (
    day INTEGER NOT NULL,
    team_ref INTEGER NOT NULL,
    project_ref INTEGER NOT NULL,
    model_ref INTEGER NOT NULL,
    request_count BIGINT NOT NULL,
    unpriced_count BIGINT NOT NULL,
    incomplete_count BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    cache_write_other_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    input_cost_nanos BIGINT NOT NULL,
    cache_write_cost_nanos BIGINT NOT NULL,
    cache_read_cost_nanos BIGINT NOT NULL,
    output_cost_nanos BIGINT NOT NULL,
    other_cost_nanos BIGINT NOT NULL,
    cache_savings_nanos BIGINT NOT NULL,
    CONSTRAINT pk_usage_daily_by_project PRIMARY KEY (day, team_ref, project_ref, model_ref)
);
CREATE TABLE usage_hourly (
    hour INTEGER NOT NULL,
    attribution_ref INTEGER NOT NULL,
    model_ref INTEGER NOT NULL,
    request_count BIGINT NOT NULL,
    unpriced_count BIGINT NOT NULL,
    incomplete_count BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    cache_write_other_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    input_cost_nanos BIGINT NOT NULL,
    cache_write_cost_nanos BIGINT NOT NULL,
    cache_read_cost_nanos BIGINT NOT NULL,
    output_cost_nanos BIGINT NOT NULL,
    other_cost_nanos BIGINT NOT NULL,
    cache_savings_nanos BIGINT NOT NULL,
    CONSTRAINT pk_usage_hourly PRIMARY KEY (hour, attribution_ref, model_ref)
);
CREATE TABLE usage_hourly_by_project (
    hour INTEGER NOT NULL,
    team_ref INTEGER NOT NULL,
    project_ref INTEGER NOT NULL,
    model_ref INTEGER NOT NULL,
    request_count BIGINT NOT NULL,
    unpriced_count BIGINT NOT NULL,
    incomplete_count BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    cache_write_other_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    input_cost_nanos BIGINT NOT NULL,
    cache_write_cost_nanos BIGINT NOT NULL,
    cache_read_cost_nanos BIGINT NOT NULL,
    output_cost_nanos BIGINT NOT NULL,
    other_cost_nanos BIGINT NOT NULL,
    cache_savings_nanos BIGINT NOT NULL,
    CONSTRAINT pk_usage_hourly_by_project PRIMARY KEY (hour, team_ref, project_ref, model_ref)
);
CREATE TABLE attributions (
    id SERIAL NOT NULL,
    digest BYTEA NOT NULL,
    team_ref INTEGER,
    project_ref INTEGER,
    person_ref INTEGER,
    task_type VARCHAR(255),
    task_complexity VARCHAR(255),
    CONSTRAINT pk_attributions PRIMARY KEY (id),
    CONSTRAINT uq_attributions_digest UNIQUE (digest),
    CONSTRAINT fk_attributions_team_ref_teams FOREIGN KEY(team_ref) REFERENCES teams (id),
    CONSTRAINT fk_attributions_project_ref_projects FOREIGN KEY(project_ref) REFERENCES projects (id),
    CONSTRAINT fk_attributions_person_ref_people FOREIGN KEY(person_ref) REFERENCES people (id)
);
CREATE TABLE budget_changes (
    id SERIAL NOT NULL,
    budget_ref INTEGER NOT NULL,
    changed_at_micros BIGINT NOT NULL,
    changed_by VARCHAR(255) NOT NULL,
    action VARCHAR(16) NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    CONSTRAINT pk_budget_changes PRIMARY KEY (id),
    CONSTRAINT fk_budget_changes_budget_ref_cost_budgets FOREIGN KEY(budget_ref) REFERENCES cost_budgets (id)
);
CREATE INDEX ix_budget_changes_budget_ref ON budget_changes (budget_ref);
CREATE TABLE cost_alerts (
    id SERIAL NOT NULL,
    budget_ref INTEGER NOT NULL,
    severity VARCHAR(16) NOT NULL,
    period_start_micros BIGINT NOT NULL,
    current_usage_nanos BIGINT NOT NULL,
    limit_nanos BIGINT NOT NULL,
    message TEXT NOT NULL,
    created_at_micros BIGINT NOT NULL,
    CONSTRAINT pk_cost_alerts PRIMARY KEY (id),
    CONSTRAINT uq_cost_alerts_budget_ref_severity_period_start_micros UNIQUE (budget_ref, severity, period_start_micros),
    CONSTRAINT fk_cost_alerts_budget_ref_cost_budgets FOREIGN KEY(budget_ref) REFERENCES cost_budgets (id)
);
CREATE TABLE attribution_tags (
    attribution_ref INTEGER NOT NULL,
    tag_ref INTEGER NOT NULL,
    CONSTRAINT pk_attribution_tags PRIMARY KEY (attribution_ref, tag_ref),
    CONSTRAINT fk_attribution_tags_attribution_ref_attributions FOREIGN KEY(attribution_ref) REFERENCES attributions (id),
    CONSTRAINT fk_attribution_tags_tag_ref_tags FOREIGN KEY(tag_ref) REFERENCES tags (id)
);
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version (version_num) VALUES ('0003');
