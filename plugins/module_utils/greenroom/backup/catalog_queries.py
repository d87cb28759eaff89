"""What PostgreSQL's catalogues are asked for a fingerprint: per section one query with two columns, the object and its value as JSON.

Written for PostgreSQL 13 and newer; a column that only newer ones have is read through to_jsonb of its row.
"""

from __future__ import annotations

# Objects of PostgreSQL itself are left out; those of extensions stay where they hold state (tables, sequences).
USER_SCHEMAS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

# Whether the stored password is the same one; the stored form itself never leaves the server.
ROLE_HASH = (
    """(SELECT coalesce(left(encode(sha256(convert_to(s.rolpassword, 'UTF8')), 'hex'), 16), 'none') FROM pg_authid s WHERE s.oid = r.oid)"""
)


def _grants(acl: str, kind: str, owner: str) -> str:
    """Rights as texts. An absent list means the default one: both are written out, so that they compare as equal."""
    return f"""(SELECT coalesce(array_agg(DISTINCT x.who || ':' || x.privilege_type || CASE WHEN x.is_grantable THEN '*' ELSE '' END),
        '{{}}')
      FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS who, a.privilege_type, a.is_grantable
            FROM aclexplode(coalesce({acl}, acldefault({kind}, {owner}))) a) x)"""


QUERIES: dict[str, str] = {
    "database": f"""
        SELECT p.key, p.value FROM pg_database d, jsonb_each(jsonb_build_object(
          'owner', pg_get_userbyid(d.datdba), 'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
          'provider', to_jsonb(d) ->> 'datlocprovider', 'icu_locale', coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'),
          'connection_limit', d.datconnlimit, 'grants', {_grants("d.datacl", "'d'", "d.datdba")},
          'comment', shobj_description(d.oid, 'pg_database'))) p
        WHERE d.datname = current_database()""",
    "database_settings": """
        SELECT coalesce('role ' || pg_get_userbyid(nullif(s.setrole, 0)), 'all roles'),
          to_jsonb((SELECT array_agg(x ORDER BY x) FROM unnest(s.setconfig) x))
        FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()""",
    "roles": """
        SELECT r.rolname, jsonb_build_object(
          'attributes', concat_ws(' ', CASE WHEN r.rolsuper THEN 'superuser' END, CASE WHEN r.rolcreaterole THEN 'createrole' END,
            CASE WHEN r.rolcreatedb THEN 'createdb' END, CASE WHEN r.rolcanlogin THEN 'login' END,
            CASE WHEN r.rolreplication THEN 'replication' END, CASE WHEN r.rolbypassrls THEN 'bypassrls' END,
            CASE WHEN r.rolinherit THEN 'inherit' END),
          'connection_limit', r.rolconnlimit, 'valid_until', r.rolvaliduntil, 'password', {role_hash},
          'member_of', (SELECT array_agg(pg_get_userbyid(m.roleid) || CASE WHEN m.admin_option THEN ' with admin' ELSE '' END ORDER BY 1)
            FROM pg_auth_members m WHERE m.member = r.oid),
          'settings', (SELECT array_agg(x ORDER BY x) FROM pg_db_role_setting s, unnest(s.setconfig) x
            WHERE s.setrole = r.oid AND s.setdatabase = 0),
          'comment', shobj_description(r.oid, 'pg_authid'))
        FROM pg_roles r WHERE r.rolname !~ '^pg_'""",
    "tablespaces": f"""
        SELECT t.spcname, jsonb_build_object('owner', pg_get_userbyid(t.spcowner), 'options', t.spcoptions,
          'grants', {_grants("t.spcacl", "'t'", "t.spcowner")})
        FROM pg_tablespace t WHERE t.spcname !~ '^pg_'""",
    "extensions": """
        SELECT e.extname, jsonb_build_object('version', e.extversion, 'schema', n.nspname)
        FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace""",
    "schemas": f"""
        SELECT n.nspname, jsonb_build_object('owner', pg_get_userbyid(n.nspowner), 'grants', {_grants("n.nspacl", "'n'", "n.nspowner")})
        FROM pg_namespace n WHERE {USER_SCHEMAS}""",
    "relations": f"""
        SELECT format('%I.%I', n.nspname, c.relname), jsonb_build_object(
          'kind', c.relkind, 'owner', pg_get_userbyid(c.relowner), 'persistence', c.relpersistence,
          'grants', {_grants("c.relacl", '''CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char"''', "c.relowner")},
          'options', (SELECT array_agg(x ORDER BY x) FROM unnest(c.reloptions) x),
          'row_security', c.relrowsecurity, 'forced', c.relforcerowsecurity, 'replica_identity', c.relreplident,
          'populated', c.relispopulated, 'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
          'access_method', (SELECT amname FROM pg_am m WHERE m.oid = c.relam))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {USER_SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'""",
    "column_grants": f"""
        SELECT format('%I.%I.%I', n.nspname, c.relname, a.attname), to_jsonb({_grants("a.attacl", "'c'", "c.relowner")})
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {USER_SCHEMAS} AND cardinality(a.attacl) > 0 AND NOT a.attisdropped""",
    "functions": f"""
        SELECT p.oid::regprocedure::text, jsonb_build_object('owner', pg_get_userbyid(p.proowner),
          'grants', {_grants("p.proacl", "'f'", "p.proowner")})
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE {USER_SCHEMAS} AND NOT EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')""",
    "policies": """
        SELECT format('%I on %I.%I', policyname, schemaname, tablename), to_jsonb(p) - '{policyname,schemaname,tablename}'::text[]
        FROM pg_policies p""",
    "triggers": f"""
        SELECT format('%I on %I.%I', t.tgname, n.nspname, c.relname),
          jsonb_build_object('enabled', t.tgenabled, 'definition', pg_get_triggerdef(t.oid))
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE NOT t.tgisinternal AND {USER_SCHEMAS}""",
    # DISABLE TRIGGER ALL switches foreign keys off, and a dump does not carry that.
    "foreign_keys_off": f"""
        SELECT DISTINCT format('%I on %I.%I', k.conname, n.nspname, c.relname), to_jsonb(t.tgenabled::text)
        FROM pg_trigger t JOIN pg_constraint k ON k.oid = t.tgconstraint JOIN pg_class c ON c.oid = t.tgrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.tgisinternal AND t.tgenabled <> 'O' AND {USER_SCHEMAS}""",
    "event_triggers": """
        SELECT evtname, jsonb_build_object('enabled', evtenabled, 'event', evtevent, 'owner', pg_get_userbyid(evtowner))
        FROM pg_event_trigger""",
    "constraints": f"""
        SELECT format('%I on %I.%I', k.conname, n.nspname, c.relname), jsonb_build_object('type', k.contype, 'validated', k.convalidated,
          'deferrable', k.condeferrable, 'deferred', k.condeferred)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {USER_SCHEMAS} AND k.contype <> 't'""",
    "indexes": f"""
        SELECT format('%I.%I', n.nspname, c.relname), jsonb_build_object('valid', i.indisvalid AND i.indisready AND i.indislive,
          'unique', i.indisunique, 'primary', i.indisprimary, 'clustered', i.indisclustered, 'replica_identity', i.indisreplident)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMAS}""",
    "default_grants": """
        SELECT format('%s by %s in %s', d.defaclobjtype, pg_get_userbyid(d.defaclrole), coalesce(n.nspname, 'all schemas')),
          to_jsonb((SELECT array_agg(x::text ORDER BY x::text) FROM unnest(d.defaclacl) x))
        FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace""",
    "large_objects": f"""
        SELECT m.oid::text, jsonb_build_object('owner', pg_get_userbyid(m.lomowner), 'grants', {_grants("m.lomacl", "'L'", "m.lomowner")})
        FROM pg_largeobject_metadata m""",
    "publications": """
        SELECT pubname, to_jsonb(p) - '{oid,pubowner}'::text[] || jsonb_build_object('owner', pg_get_userbyid(pubowner),
          'tables', (SELECT array_agg(format('%I.%I', schemaname, tablename) ORDER BY 1) FROM pg_publication_tables t
                     WHERE t.pubname = p.pubname))
        FROM pg_publication p""",
    # Whether it is on is not compared: a dump carries every subscription switched off.
    "subscriptions": """
        SELECT subname, jsonb_build_object('owner', pg_get_userbyid(subowner), 'publications', subpublications, 'slot', subslotname)
        FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())""",
    "sequences": """
        SELECT format('%I.%I', schemaname, sequencename), jsonb_build_object('start', start_value, 'min', min_value, 'max', max_value,
          'increment', increment_by, 'cycle', cycle, 'cache', cache_size, 'type', data_type::text, 'owner', sequenceowner)
        FROM pg_sequences""",
}
