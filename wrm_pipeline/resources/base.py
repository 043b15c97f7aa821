"""The base class of all resources: fixes and checks on top of Dagster's own.

- A run that changes one field in the launchpad keeps the others from the definitions. Dagster (1.13) resets them to the
  defaults of the class.
- A resource that is a field of another one is the top-level one of the code location (`share`), including changes by
  the run. Dagster would create a second one from the definitions.
- A field that is an `EnvVar` is checked once its value is known, not by its name.
- The error about an unknown field or a wrong value names the field; the value is not quoted, as it may be secret.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import dagster as dg
from dagster._config import Field, Shape
from dagster._config.field_utils import EnvVar, IntEnvVar
from dagster._config.pythonic_config.resource import ConfigurableResourceFactory
from dagster._core.definitions.definition_config_schema import DefinitionConfigSchema
from pydantic import AfterValidator, field_validator

T = TypeVar("T")


def optional(check: Callable[[str], str]) -> AfterValidator:
    """A check of a value that may be null, for use in a field's annotation."""
    return AfterValidator(lambda value: value if value is None else check(value))


# Dagster excludes attributes with this suffix from the configuration.
_SHARED = "shared__internal__"


def share(resource: T) -> T:
    """Mark a resource that has a key in the definitions, before it is used; returns it."""
    if isinstance(resource, ConfigurableResourceFactory):
        setattr(resource, _SHARED, True)
    return resource


class _Common(ConfigurableResourceFactory[Any], extra="forbid", hide_input_in_errors=True):
    @property
    def _nested_partial_resources(self) -> Mapping[str, Any]:
        """Fields that Dagster resolves to top-level resources."""
        unfinished = super()._nested_partial_resources
        return {
            name: resource
            for name, resource in self.nested_resources.items()
            if name in unfinished or getattr(resource, _SHARED, False)
        }

    @property
    def _config_schema(self) -> DefinitionConfigSchema:
        """Each field with its value from the definitions as default."""
        given = self._resolved_config_dict
        shape = self._schema.config_type
        fields = {
            name: Field(field.config_type, default_value=given[name], is_required=False, description=field.description)
            if name in given
            else field
            for name, field in shape.fields.items()
        }
        make_shape: Any = Shape  # has no types
        return DefinitionConfigSchema(Field(make_shape(fields), description=self._schema.description))

    @field_validator("*", mode="wrap")
    @classmethod
    def _checked_once_it_is_known(cls, value: Any, check: Callable[[Any], Any]) -> Any:
        return value if isinstance(value, EnvVar | IntEnvVar) else check(value)


class BaseResource(dg.ConfigurableResource[Any], _Common):
    """A resource of this code location. Checks of a field's value are in its annotation, within the common one."""


class BaseIOManager(dg.ConfigurableIOManager, _Common):
    """An I/O manager of this code location."""


class BaseIOManagerFactory(dg.ConfigurableIOManagerFactory[Any], _Common):
    """What has the fields of an I/O manager of this code location, and makes it when a run needs it."""
