"""A step that could not be reported is no step that failed: Dagster runs its run again, and no other."""

from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.tags import RETRY_ON_ASSET_OR_OP_FAILURE_TAG, WILL_RETRY_TAG

from ft_dagster.assets.failures import ASKED, run_again_where_unreported, saying, unreported
from ft_dagster.automation.processes.instance import dagster_yaml
from ft_dagster.settings import Settings, load_settings
from tests.postgres import PostgresServer
from tests.present import present
from tests.s3_server import free_port


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("project")
    (folder / "tenants").mkdir()
    return load_settings(folder)


@pytest.fixture
def instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """With the retries of runs that a project's own instance has."""
    retries = {"run_retries": dagster_yaml(settings)["run_retries"]}
    with dg.instance_for_test(overrides=retries) as made:
        yield made


def away() -> None:
    """Ask a database that is not there."""
    sa.create_engine(f"postgresql+psycopg2://ft:x@127.0.0.1:{free_port()}/dagster").connect()


def broken() -> None:
    raise ValueError("no such figure")


@dg.asset(hooks={run_again_where_unreported}, config_schema=bool)
def made(context: dg.AssetExecutionContext) -> None:
    away() if context.op_execution_context.op_config else broken()


def run_of(instance: dg.DagsterInstance, is_away: bool, **tags: str) -> dg.DagsterRun:
    config = {"ops": {"made": {"config": is_away}}}
    done = dg.materialize([made], instance=instance, run_config=config, raise_on_error=False, tags=tags)
    assert not done.success
    return present(instance.get_run_by_id(done.run_id))


@pytest.mark.slow
def test_a_run_of_which_a_step_could_not_be_reported_is_run_again(instance: dg.DagsterInstance) -> None:
    assert run_of(instance, True).tags[WILL_RETRY_TAG] == "true"


@pytest.mark.slow
def test_a_run_of_which_a_step_failed_is_not(instance: dg.DagsterInstance) -> None:
    run = run_of(instance, False)
    assert run.tags[WILL_RETRY_TAG] == "false"
    assert RETRY_ON_ASSET_OR_OP_FAILURE_TAG not in run.tags


def run_again(instance: dg.DagsterInstance, first: dg.DagsterRun) -> dg.DagsterRun:
    """A run that Dagster makes of it, which fails by itself."""
    taken = {name: first.tags[name] for name in (RETRY_ON_ASSET_OR_OP_FAILURE_TAG, ASKED)}
    return run_of(instance, False, **taken)


@pytest.mark.slow
def test_a_step_that_fails_in_the_second_run_ends_it(instance: dg.DagsterInstance) -> None:
    assert run_again(instance, run_of(instance, True)).tags[WILL_RETRY_TAG] == "false"


@pytest.mark.slow
def test_who_asks_for_retries_of_failed_steps_has_them(instance: dg.DagsterInstance) -> None:
    asked = {RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"}
    assert run_of(instance, False, **asked).tags[WILL_RETRY_TAG] == "true"
    assert run_again(instance, run_of(instance, True, **asked)).tags[WILL_RETRY_TAG] == "true"


def test_what_dagster_makes_of_such_an_error_is_known_by_its_cause() -> None:
    from dagster_postgres.utils import DagsterPostgresException, retry_pg_connection_fn

    with pytest.raises(DagsterPostgresException) as gone:
        retry_pg_connection_fn(away, retry_limit=1, retry_wait=0.01)
    assert unreported(gone.value)
    assert not unreported(ValueError("no such figure"))
    assert not unreported(None)


HANGS_UP = """
create sequence told;
create function hang_up() returns trigger as $$ begin
  if new.step_key = 'reported' and new.dagster_event_type = '{event}' and nextval('told') = 1 then
    perform pg_terminate_backend(pg_backend_pid());
  end if;
  return new;
end $$ language plpgsql;
create trigger hang_up before insert on event_logs for each row execute function hang_up();
"""


@dg.asset(hooks={run_again_where_unreported})
def reported() -> None:
    pass


@pytest.mark.long
@pytest.mark.parametrize("event", ["STEP_START", "ASSET_MATERIALIZATION", "STEP_SUCCESS"])
def test_a_server_that_hangs_up_amid_an_event_of_a_step_has_its_run_run_again(
    settings: Settings, postgres: PostgresServer, event: str
) -> None:
    address = postgres.new_database()
    kept = {"storage": {"postgres": {"postgres_url": address}}}
    retries = {"run_retries": dagster_yaml(settings)["run_retries"]}
    with dg.instance_for_test(overrides={**kept, **retries}) as instance:
        with sa.create_engine(address).begin() as connection:
            connection.exec_driver_sql(HANGS_UP.format(event=event))
        done = dg.materialize([reported], instance=instance, raise_on_error=False)
        assert not done.success
        assert present(instance.get_run_by_id(done.run_id)).tags[WILL_RETRY_TAG] == "true"
        assert dg.materialize([reported], instance=instance).success


LOSES_LINES = """
create function lose() returns trigger as $$ begin
  if new.step_key = 'talks' and coalesce(new.dagster_event_type, 'ENGINE_EVENT') = 'ENGINE_EVENT' then
    perform pg_terminate_backend(pg_backend_pid());
  end if;
  return new;
end $$ language plpgsql;
create trigger lose before insert on event_logs for each row execute function lose();
"""


@dg.asset(config_schema=bool)
def talks(context: dg.AssetExecutionContext) -> None:
    say = saying(context) if context.op_execution_context.op_config else context.log.info
    say("step 1 of 2")


@pytest.mark.long
@pytest.mark.parametrize("ours", [True, False])
def test_a_line_of_the_log_that_cannot_be_written_fails_no_step(postgres: PostgresServer, ours: bool) -> None:
    """Dagster's own way of writing it would."""
    address = postgres.new_database()
    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_url": address}}}) as instance:
        with sa.create_engine(address).begin() as connection:
            connection.exec_driver_sql(LOSES_LINES)
        config = {"ops": {"talks": {"config": ours}}}
        done = dg.materialize([talks], instance=instance, run_config=config, raise_on_error=False)
        assert done.success is ours
