-- Tenants, their devices, and the versions they wrote. Payloads are ciphertext.
CREATE TABLE tenant (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- A device of a tenant: its writes are stored up to `counter`, `known` is what it has read.
CREATE TABLE actor (
    tenant bigint NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    actor bigint NOT NULL,
    enrolment bigint NOT NULL,
    counter bigint NOT NULL DEFAULT 0,
    batch bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    known_actors bigint[] NOT NULL DEFAULT '{}',
    known_counters bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, actor),
    UNIQUE (tenant, enrolment)
);

CREATE TABLE version (
    tenant bigint NOT NULL,
    actor bigint NOT NULL,
    counter bigint NOT NULL,
    cell bytea NOT NULL,
    -- Pairs of author and counter.
    context bigint[] NOT NULL,
    stamp bigint NOT NULL,
    payload bytea NOT NULL,
    is_tombstone boolean NOT NULL,
    needs_actor bigint,
    needs_counter bigint,
    is_live boolean NOT NULL DEFAULT true,
    received timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, actor, counter),
    FOREIGN KEY (tenant, actor) REFERENCES actor (tenant, actor) ON DELETE CASCADE
);
CREATE INDEX version_cell ON version (tenant, cell);
CREATE INDEX version_tombstone ON version (tenant, received) WHERE is_tombstone;

-- Sealed blocks of large values, under names that only their tenant can make.
CREATE TABLE block (
    tenant bigint NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
    name bytea NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- A transaction sees the rows of the tenant it was opened for, and no rows if it names none. The
-- service's role owns no table, so the policies hold for it.
ALTER TABLE actor ENABLE ROW LEVEL SECURITY;
ALTER TABLE version ENABLE ROW LEVEL SECURITY;
ALTER TABLE block ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_blocks ON block
    USING (tenant = nullif(current_setting('autoglm.tenant', true), '')::bigint);
CREATE POLICY own_actors ON actor
    USING (tenant = nullif(current_setting('autoglm.tenant', true), '')::bigint);
CREATE POLICY own_versions ON version
    USING (tenant = nullif(current_setting('autoglm.tenant', true), '')::bigint);

GRANT SELECT, INSERT ON tenant, block TO autoglm_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON actor, version TO autoglm_service;
